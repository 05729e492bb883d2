# VGG-16 of the implicit-sparsity paper: head [512][10], Xavier's initialisation, Adam with L2 1e-4,
# batches of 40.
_base_ = [
    '../_base_/psbn.py',
    './_base_/vgg16.py',
    './_base_/implicit.py',
    './_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        init_cfg=[
            dict(type='Xavier', layer='Conv2d', gain=2**0.5),
            dict(type='Constant', val=1, layer='_BatchNorm'),
        ]
    ),
    head=dict(
        type='StackedLinearClsHead',
        mid_channels=[512],
        norm_cfg=dict(type='BN1d'),
        init_cfg=dict(type='Xavier', layer='Linear', gain=2**0.5),
    ),
)
data_preprocessor = dict(padding=0)
train_dataloader = dict(batch_size=40)
