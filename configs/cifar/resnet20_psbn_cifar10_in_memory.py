_base_ = './resnet20_bn_cifar10_in_memory.py'
model = dict(backbone=dict(norm_cfg=_base_.psbn))
