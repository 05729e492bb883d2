_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/demp.py']

# DemP trains the scales, so their statistics are trained too.
model = dict(backbone=dict(norm_eval=False))
