_base_ = './retinanet_r18_bn_bccd.py'

norm = _base_.psbn
model = dict(backbone=dict(norm_cfg=norm), neck=dict(norm_cfg=norm), bbox_head=dict(norm_cfg=norm))
