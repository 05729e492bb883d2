# Gradual magnitude pruning: the smallest weights go, from 30 % to 80 % of the training.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='SparseWeightsHook', method='magnitude', sparsity=0.8),
]
