# psBN's norm_cfg, SparsityHook, and DemPHook at the DemP paper's settings, for any config:
#   _base_ = ['mmdet::...', 'mmpsbn::_base_/demp.py']
custom_imports = dict(imports=['mmpsbn'], allow_failed_imports=False)

psbn = dict(type='psBN', alpha=0.1, requires_grad=True)

custom_hooks = [
    dict(type='SparsityHook', interval=100, gamma_threshold=1e-3),
    dict(
        type='DemPHook',
        penalty=dict(kind='lasso', scope='gamma', peak=1e-3),
        noise=dict(peak_var=5e-5, asymmetric=True),
        schedule=dict(type='one_cycle', warmup=0.1, end=1.0),
        prune=dict(interval=5000, num_samples=512),
    ),
]
