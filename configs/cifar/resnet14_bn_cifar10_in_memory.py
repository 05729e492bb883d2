# ResNet-14 of the BN-only paper with all parameters trained, its baseline.
_base_ = [
    '../_base_/psbn.py',
    './_base_/bn_only.py',
    './_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
