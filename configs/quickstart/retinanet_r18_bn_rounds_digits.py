# The detector of the quickstart with BN, for rounds of cosine annealing with SGD: with a decay
# that squashes what noise drives into the region without a gradient.
_base_ = './retinanet_r18_psbn_digits.py'

norm = dict(_delete_=True, type='BN', requires_grad=True)
model = dict(backbone=dict(norm_cfg=norm), neck=dict(norm_cfg=norm), bbox_head=dict(norm_cfg=norm))
optimizer = dict(_delete_=True, type='SGD', lr=0.04, momentum=0.9, weight_decay=1e-2)
optim_wrapper = dict(optimizer=optimizer)
train_cfg = dict(max_epochs=9, val_interval=3)
param_scheduler = dict(
    _delete_=True,
    type='CosineRestartLR',
    by_epoch=True,
    convert_to_iter_based=True,
    periods=[3, 3, 3],
    restart_weights=[1, 1, 1],
    eta_min=0,
)
custom_hooks = [dict(type='RoundsHook'), dict(type='SparsityHook', interval=50)]
