# EarlySNAP: SNAP's score at EarlyCroP's time.
_base_ = '../resnet18_sgdm_cifar10.py'
custom_hooks = [
    dict(type='SparsityHook'),
    dict(
        type='DemPHook',
        budget=dict(params=0.2, score='snap', timing='early'),
        prune=dict(round_to=1),
    ),
]
