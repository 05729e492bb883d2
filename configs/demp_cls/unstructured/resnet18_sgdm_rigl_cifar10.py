# RigL: as SET, but weights grow where the gradient is largest; ERK, as in table 2.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='SparseWeightsHook', method='rigl', sparsity=0.8, distribution='erk'),
]
