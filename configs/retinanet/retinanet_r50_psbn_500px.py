_base_ = './retinanet_r50_bn_500px.py'

model = dict(backbone=dict(norm_cfg=_base_.psbn))
