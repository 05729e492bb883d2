# Blood cells with a backbone that ImageNet has taught. Its weights are those of the public
# repository dog-qiuqiu/Yolo-FastestV2, model/backbone/backbone.pth:
#   PYTHONPATH=docs/examples mmpsbn train docs/examples/retinanet_shufflenetv2_bccd.py
_base_ = 'mmpsbn::bccd/retinanet_r18_bn_bccd.py'
custom_imports = dict(imports=['mmpsbn', 'yolo_fastest_backbone'], allow_failed_imports=False)
custom_hooks = []
weights = dict(type='Pretrained', checkpoint='data/backbone.pth')
model = dict(
    data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=False),
    backbone=dict(_delete_=True, type='YoloFastestBackbone', init_cfg=weights),
    neck=dict(in_channels=[48, 96, 192], start_level=0),
)
