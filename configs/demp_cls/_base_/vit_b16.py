_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'
# Appendix I.3, with the net of torchvision: no dropout, one linear layer behind the class token
model = dict(
    backbone=dict(drop_rate=0.0),
    head=dict(hidden_dim=None, loss=dict(label_smooth_val=0.11)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=224),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9),
            dict(type='PackInputs'),
        ]
    ),
)
optim_wrapper = dict(
    accumulative_counts=16,  # on one GPU; 2 on eight
    optimizer=dict(lr=3e-3, weight_decay=0.3, betas=(0.9, 0.999)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.033, end=16, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=134, begin=16, end=150, by_epoch=True),
]
train_cfg = dict(max_epochs=150)
