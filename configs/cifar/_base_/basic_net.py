# C1-C7 and the head [256][10]; Xavier's initialisation everywhere, as in the paper.
model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(type='BasicNet', width='64-1x', norm_cfg=dict(type='BN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='StackedLinearClsHead',
        num_classes=10,
        in_channels=512,
        mid_channels=[256],
        norm_cfg=dict(type='BN1d'),
        init_cfg=dict(type='Xavier', layer='Linear', gain=2**0.5),
    ),
)
