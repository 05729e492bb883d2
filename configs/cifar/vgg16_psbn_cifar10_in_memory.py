_base_ = [
    '../_base_/psbn.py',
    './_base_/vgg16.py',
    './_base_/psbn_round.py',
    './_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(norm_cfg=_base_.psbn))
