# BasicNet with Adam, L2 1e-4 and batches of 40; the images are flipped but not shifted.
_base_ = [
    '../_base_/psbn.py',
    './_base_/basic_net.py',
    './_base_/implicit.py',
    './_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
data_preprocessor = dict(padding=0)
train_dataloader = dict(batch_size=40)
