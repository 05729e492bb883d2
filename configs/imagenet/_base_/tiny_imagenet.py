# TinyImageNet (200 classes, 64x64) through mmpretrain's CustomDataset; the card says how val must
# be sorted. Flipped but not shifted, as in the implicit-sparsity paper.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32.py'
data_preprocessor = dict(num_classes=200)
load = dict(type='LoadImageFromFile')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
pack = dict(type='PackInputs')
data = dict(
    _delete_=True,
    type='CustomDataset',
    _scope_='mmpretrain',
    data_root='data/tiny-imagenet-200',
)
train_dataloader = dict(
    batch_size=40, dataset=dict(**data, data_prefix='train', pipeline=[load, flip, pack])
)
val_dataloader = dict(dataset=dict(**data, data_prefix='val', pipeline=[load, pack]))
test_dataloader = val_dataloader
