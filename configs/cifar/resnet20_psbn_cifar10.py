# ResNet-20 with psBN on CIFAR-10, one round of the psBN paper (100 epochs). mmpretrain downloads
# CIFAR-10 to data/cifar10 on first use.
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmpsbn'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=20, norm_cfg=dict(type='psBN', alpha=0.1)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')
    ),
)
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=100, by_epoch=True)
train_cfg = dict(max_epochs=100)
custom_hooks = [dict(type='SparsityHook', interval=100)]
