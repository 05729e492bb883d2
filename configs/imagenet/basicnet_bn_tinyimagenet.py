# 250, 75 and 75 epochs, the rate divided by 10 in between; head [512][256][200].
_base_ = [
    '../_base_/psbn.py',
    '../cifar/_base_/basic_net.py',
    '../cifar/_base_/implicit.py',
    './_base_/tiny_imagenet.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(head=dict(num_classes=200, mid_channels=[512, 256]))
param_scheduler = dict(milestones=[250, 325])
train_cfg = dict(max_epochs=400)
