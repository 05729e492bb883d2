_base_ = './retinanet_r50_bn_demp.py'

model = dict(backbone=dict(norm_cfg=_base_.psbn))
