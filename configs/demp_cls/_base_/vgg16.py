# Appendix I.2: 80 epochs of batches of 256, one-cycle learning rate, CIFAR-10 resized to 64x64. How
# far it pads before it crops is not said; here by 8, the 4 of 32x32.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'
resize = dict(type='Resize', scale=64)
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
crop = dict(type='RandomCrop', crop_size=64, padding=8)
pack = dict(type='PackInputs')
train_dataloader = dict(batch_size=256, dataset=dict(pipeline=[resize, crop, flip, pack]))
val_dataloader = dict(batch_size=256, dataset=dict(pipeline=[resize, pack]))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(
    type='OneCycleLR', eta_max=0.1, total_steps=80, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=80, val_interval=1)
val_cfg = dict()
test_cfg = dict()
