# As magnitude, by |w . dL/dw|.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='SparseWeightsHook', method='saliency', sparsity=0.8),
]
