# Statistics over the joined batch of all GPUs, trained instead of frozen.
_base_ = '../retinanet_psbn.py'

model = dict(backbone=dict(norm_cfg=dict(type='psSyncBN'), norm_eval=False))
