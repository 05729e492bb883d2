# Norm layers in FPN and head too: the backbone alone holds about a third of the FLOPs,
# so only with them can pruning reach half. One norm per level in the head, whose
# convolutions the levels share: their statistics differ.
_base_ = './retinanet_r50_psbn_demp.py'

norm = dict(type='psSyncBN', alpha=0.1, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm),
    neck=dict(norm_cfg=norm),
    bbox_head=dict(type='RetinaSepBNHead', num_ins=5, norm_cfg=norm),
)
