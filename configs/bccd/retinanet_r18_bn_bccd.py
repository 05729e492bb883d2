# BCCD blood cells from scratch, sized for a CPU: half-width ResNet-18, norm layers
# everywhere, 320x240 images. tools/make_bccd.py makes data/bccd.
_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../_base_/psbn.py']

data_root = 'data/bccd/'
data_hint = (
    'clone the public repository Shenggan/BCCD_Dataset, then run '
    'python tools/make_bccd.py BCCD_Dataset/BCCD data/bccd'
)
norm = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        base_channels=32,
        norm_cfg=norm,
        norm_eval=False,
        frozen_stages=-1,
        zero_init_residual=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=norm),
    bbox_head=dict(
        type='RetinaSepBNHead',
        num_ins=5,
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm,
    ),
)

resize = dict(type='Resize', scale=(320, 240), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(
    data_root=data_root,
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
    data_prefix=dict(img='images/'),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=8, dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# The decay is 20 times mmdet's, so that it has time to act: 26 iterations an epoch.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=2e-3),
    clip_grad=dict(max_norm=10),
)
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=30 * 26),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=2))
randomness = dict(seed=0)
