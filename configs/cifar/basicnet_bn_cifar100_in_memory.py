_base_ = [
    '../_base_/psbn.py',
    './_base_/basic_net.py',
    './_base_/implicit.py',
    './_base_/cifar100_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(head=dict(num_classes=100))
data_preprocessor = dict(padding=0)
train_dataloader = dict(batch_size=40)
