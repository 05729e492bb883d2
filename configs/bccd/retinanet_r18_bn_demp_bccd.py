_base_ = './retinanet_r18_bn_bccd.py'

demp = dict(
    type='DemPHook',
    penalty=dict(peak=1e-2),
    noise=dict(peak_var=1e-7),
    prune=dict(interval=130, num_samples=128))
custom_hooks = [dict(type='SparsityHook', interval=50, gamma_threshold=1e-3), demp]
