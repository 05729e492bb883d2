# psBN's norm_cfg, SparsityHook and DemPHook (its defaults: configs/demp_cls/README.md), beside a
# base that sets neither custom_hooks nor custom_imports (Faster R-CNN, RetinaNet, ResNet); for
# RTMDet, YOLOX, SSD, ConvNeXt see docs/configs.md.
#   _base_ = ['mmdet::...', 'mmpsbn::_base_/demp.py']
custom_imports = dict(imports=['mmpsbn'], allow_failed_imports=False)

psbn = dict(type='psBN', alpha=0.1, requires_grad=True)

custom_hooks = [dict(type='SparsityHook'), dict(type='DemPHook')]
