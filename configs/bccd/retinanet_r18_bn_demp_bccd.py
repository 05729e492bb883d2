# Events every half epoch; the penalty is thirty times the default, for a run a hundred times
# shorter than the paper's.
_base_ = './retinanet_r18_bn_bccd.py'

custom_hooks = [
    dict(type='SparsityHook', interval=100, gamma_threshold=1e-3),
    dict(
        type='DemPHook',
        penalty=dict(peak=3e-2),
        prune=dict(interval=13, num_samples=64),
    ),
]
