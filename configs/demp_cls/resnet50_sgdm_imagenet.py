# The text gives one rate, 0.005, and not for which optimizer; 0.1 is what batches of 256 have in
# the recipe it follows (Evci et al. 2020: 1.6 for 4096).
_base_ = ['../_base_/demp.py', './_base_/resnet50.py']
custom_hooks = [
    dict(type='SparsityHook'),
    dict(type='DemPHook', prune=dict(num_samples=2048)),
]
