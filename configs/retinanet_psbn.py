# Entry point; retinanet/retinanet_r50_psbn_800px.py is the same.
# RetinaNet-R50-FPN with psBN in the backbone, COCO 2017, 1x, 8 GPUs x 2 images.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/psbn.py']

model = dict(backbone=dict(norm_cfg=_base_.psbn))
