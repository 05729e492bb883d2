_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [dict(type='SparsityHook'), dict(type='DemPHook', noise=dict(peak_std=1e-3))]
