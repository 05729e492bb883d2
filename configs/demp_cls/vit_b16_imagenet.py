# Noise alone prunes the MLPs (section 4.3, appendix I.3): 150 epochs of 16 x 256 pictures, an event
# every 5,000 steps of 16 iterations. When the last block's neurons have revived is not said; here
# pruning begins after 30 %. GELU has no exact 0, hence eps, which shifts the outputs a little.
_base_ = ['../_base_/demp.py', './_base_/vit_b16.py']
custom_hooks = [
    dict(
        type='DemPHook',
        penalty=dict(peak=0.0),
        prune=dict(interval=80_000, begin=0.3, num_samples=2048, eps=1e-2, tolerance=5e-2),
    )
]
