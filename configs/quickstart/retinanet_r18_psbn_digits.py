# Handwritten digits on photographs (tools/make_digits.py), from scratch, minutes on a CPU core:
# half-width ResNet-18 without its last stage, psBN everywhere.
_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../_base_/psbn.py']

data_root = 'data/digits/'
data_hint = 'run tools/make_digits.py data/digits'
norm = _base_.psbn
model = dict(
    backbone=dict(
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
        norm_cfg=norm,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128], out_channels=64, start_level=0, num_outs=2, norm_cfg=norm),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm,
        anchor_generator=dict(
            octave_base_scale=2.2, scales_per_octave=3, ratios=[1.0, 1.7], strides=[8, 16]
        ),
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=0.11, loss_weight=1.0),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
metainfo = dict(classes=tuple('0123456789'))
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
dataset = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=None,
        pipeline=train_pipeline,
        **dataset,
    ),
    **loader,
)
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
        **dataset,
    ),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=1e-2),
    clip_grad=dict(max_norm=10),
)
train_cfg = dict(max_epochs=6, val_interval=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    # a cosine, which leaves less time at a high rate, ends 0.04 to 0.05 mAP lower
    dict(type='MultiStepLR', by_epoch=False, milestones=[1440, 1680], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
custom_hooks = [dict(type='SparsityHook', interval=50, gamma_threshold=1e-3)]
randomness = dict(seed=0)
