# psbn.py and DemPHook, at the DemP paper's settings.
_base_ = './psbn.py'

custom_hooks = [
    dict(type='SparsityHook', interval=100, gamma_threshold=1e-3),
    dict(
        type='DemPHook',
        penalty=dict(kind='lasso', scope='gamma', peak=1e-3),
        noise=dict(peak_var=5e-5, asymmetric=True),
        schedule=dict(type='one_cycle', warmup=0.1, end=1.0),
        prune=dict(interval=5000, num_samples=512)),
]
