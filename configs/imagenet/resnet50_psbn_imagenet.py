# mmpretrain's own ResNet-50 with psBN.
_base_ = ['../_base_/psbn.py', 'mmpretrain::resnet/resnet50_8xb32_in1k.py']
model = dict(backbone=dict(norm_cfg=_base_.psbn))
