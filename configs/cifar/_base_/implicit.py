# The implicit-sparsity paper on CIFAR: Adam with L2 in the gradient, 250 epochs and 75 at a tenth.
optim_wrapper = dict(
    optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', milestones=[250], gamma=0.1, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=325, val_interval=1)
val_cfg = dict()
test_cfg = dict()
