# Appendix I.1: 100 epochs of batches of 256 (8 x 32), the rate divided by 10 at 30, 70 and 90,
# label smoothing 0.1, decay 1e-4; pictures are resized to 256x256 or 480x480 and cropped to 224.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
model = dict(
    head=dict(
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000)
    )
)
sizes = [[dict(type='Resize', scale=size)] for size in (256, 480)]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomChoice', transforms=sizes),
            dict(type='RandomCrop', crop_size=224),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
param_scheduler = dict(milestones=[30, 70, 90])
