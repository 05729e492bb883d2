_base_ = [
    '../_base_/demp.py',
    '../cifar/_base_/vgg16.py',
    './_base_/vgg16.py',
    'mmpretrain::_base_/default_runtime.py',
]
