_base_ = [
    '../_base_/demp.py',
    './_base_/resnet18.py',
    './_base_/cifar10_in_memory.py',
    './_base_/demp_resnet18.py',
    'mmpretrain::_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
