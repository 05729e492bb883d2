# The same run on CIFAR-10 stored as picture files: <data_root>/train/<class>/*.jpg and
# <data_root>/test/<class>/*.jpg.
_base_ = './resnet20_psbn_cifar10.py'
data_root = 'data/cifar10_jpeg'
data_preprocessor = dict(to_rgb=True)  # files are read as BGR
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='test',
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
