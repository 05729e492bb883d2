# The CIFAR form of mmpretrain's VGG: no pooling after the last stage, one linear layer.
model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(type='VGG', depth=16, norm_cfg=dict(type='BN'), with_last_pool=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
)
