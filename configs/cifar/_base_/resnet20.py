model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(type='CIFARResNet', depth=20, norm_cfg=dict(type='BN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
