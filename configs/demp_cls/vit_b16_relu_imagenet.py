_base_ = './vit_b16_imagenet.py'
model = dict(backbone=dict(layer_cfgs=dict(act_cfg=dict(type='ReLU'))))
custom_hooks = [
    dict(
        type='DemPHook',
        penalty=dict(peak=0.0),
        prune=dict(interval=80_000, begin=0.3, num_samples=2048),
    )
]
