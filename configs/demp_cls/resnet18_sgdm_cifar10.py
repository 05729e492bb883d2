_base_ = [
    '../_base_/demp.py',
    './_base_/resnet18.py',
    '../cifar/_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
