# <data_root>/{train,test}/<class>/*.jpg, decoded once into <data_root>/<split>.mmpsbn.npz.
_base_ = './cifar10_in_memory.py'
train_dataloader = dict(dataset=dict(source='folder', data_root='data/cifar10_jpeg'))
val_dataloader = dict(dataset=dict(source='folder', data_root='data/cifar10_jpeg'))
test_dataloader = val_dataloader
