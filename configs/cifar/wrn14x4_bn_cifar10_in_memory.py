_base_ = './resnet14_bn_cifar10_in_memory.py'
model = dict(backbone=dict(base_channels=16 * 4), head=dict(in_channels=64 * 4))
