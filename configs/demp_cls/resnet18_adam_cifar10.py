# AdamW, as figure 2 names it: the constant decay does not go through its adaptive term, the penalty
# does.
_base_ = './resnet18_sgdm_cifar10.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.005, weight_decay=5e-4))
