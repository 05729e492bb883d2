# Table 1 has the L2 penalty with Adam.
_base_ = './resnet50_sgdm_imagenet.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.005, weight_decay=1e-4))
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='DemPHook', penalty=dict(kind='l2'), prune=dict(num_samples=2048)),
]
