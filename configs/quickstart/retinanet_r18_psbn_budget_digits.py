# The same training, and in its course half of the MACs go.
_base_ = './retinanet_r18_psbn_digits.py'

custom_hooks = [*_base_.custom_hooks, dict(type='DemPHook', budget=dict(flops=0.5))]
