# ResNet-20 with BN on CIFAR-10 in memory, one round of the psBN paper.
_base_ = [
    '../_base_/psbn.py',
    './_base_/resnet20.py',
    './_base_/psbn_round.py',
    './_base_/cifar10_in_memory.py',
    'mmpretrain::_base_/default_runtime.py',
]
