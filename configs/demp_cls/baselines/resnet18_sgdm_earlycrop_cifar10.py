# EarlyCroP-S: CroPit-S's score at the end of the first epoch that hardly moves the weights.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(
        type='DemPHook',
        budget=dict(params=0.2, score='cropit', timing='early'),
        prune=dict(round_to=1),
    ),
]
