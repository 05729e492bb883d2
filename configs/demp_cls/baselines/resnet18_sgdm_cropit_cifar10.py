# CroPit-S: at initialisation, by |H g| of gates on channels.
_base_ = '../resnet18_sgdm_cifar10.py'
model = dict(backbone=dict(zero_init_residual=False))  # or no gradient comes into the branches
custom_hooks = [
    dict(type='SparsityHook'),
    dict(
        type='DemPHook',
        budget=dict(params=0.2, score='cropit', timing='start'),
        prune=dict(round_to=1),
    ),
]
