# ResNet-20 with psBN on CIFAR-10, one round of the psBN paper, with mmpretrain's own data pipeline.
_base_ = [
    '../_base_/psbn.py',
    './_base_/resnet20.py',
    './_base_/psbn_round.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(norm_cfg=_base_.psbn))
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
