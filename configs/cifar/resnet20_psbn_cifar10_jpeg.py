# The same run on CIFAR-10 stored as picture files: <data_root>/{train,test}/<class>/*.jpg.
_base_ = [
    '../_base_/psbn.py',
    './_base_/resnet20.py',
    './_base_/psbn_round.py',
    './_base_/cifar10_jpeg_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(norm_cfg=_base_.psbn))
