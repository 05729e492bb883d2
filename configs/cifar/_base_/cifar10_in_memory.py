# CIFAR-10 in memory: mmpretrain downloads the python pickles to data/cifar10 on first use. Crop,
# flip and normalisation are done on whole batches by the data preprocessor.
data_preprocessor = dict(
    type='BatchCropFlip',
    _scope_='mmpretrain',
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
)
images = dict(
    type='InMemoryImages', _scope_='mmpretrain', source='CIFAR10', data_root='data/cifar10'
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(images, split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='whole_batch_collate'),
)
val_dataloader = dict(
    batch_size=1000,
    num_workers=0,
    dataset=dict(images, split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='whole_batch_collate'),
)
val_evaluator = dict(type='Accuracy', _scope_='mmpretrain', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
