# The baseline: mmdet's own 1x config, with SparsityHook watching.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/psbn.py']
