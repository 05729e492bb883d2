_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='DemPHook', penalty=dict(kind='l2', scope='all')),
]
