# SET: sparse from the start; small weights go, others grow at random.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='SparseWeightsHook', method='set', sparsity=0.8),
]
