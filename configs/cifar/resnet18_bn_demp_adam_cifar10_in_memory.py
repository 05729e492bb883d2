# AdamW, as figure 2 of the paper names it: the constant decay does not go through its adaptive term
# and the penalty does.
_base_ = './resnet18_bn_demp_sgdm_cifar10_in_memory.py'
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.005, weight_decay=5e-4),
)
