_base_ = [
    '../_base_/psbn.py',
    './_base_/resnet20.py',
    './_base_/psbn_round.py',
    './_base_/cifar100_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(norm_cfg=_base_.psbn), head=dict(num_classes=100))
