from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..tables import ArmTable
from ._psbn import FEW, NORMS, rounds

# Without a norm layer a tenth of the rate is ours. small: S = 2 rounds of 2.5, with 4 times the
# decay of psbn-rounds and 4 epochs
_ARMS = {
    'BN + ReLU': NORMS['BN'],
    'no norm': {
        'model.backbone.norm_cfg': None,
        'optim_wrapper.optimizer.lr': 0.01,
        'custom_hooks': [dict(type='RoundsHook')],  # without gamma SparsityHook has nothing to see
    },
    'instance norm': {'model.backbone.norm_cfg': dict(_delete_=True, type='IN', affine=True)},
    'BN, linear': NORMS['BN'] | {'model.backbone.act_cfg': None},
}
_VGG11 = {'model.backbone.depth': 11}

EXPERIMENT = Experiment(
    shows='sections 3.4 and 3.5 and figure 1a of the psBN paper: VGG-11 with BN, without, with '
    'instance norm, and linear',
    claim='At the end of the second round the L1 norms of the filters have a peak at 0 with BN and '
    'none without; instance norm has collapsed filters too, a linear net less than 1 %.',
    arms=sweep(
        'cifar/vgg16_psbn_cifar10_in_memory.py',
        dict(
            smoke=rounds('smoke', 2, tiny=FEW) | _VGG11,
            small=rounds('small', 2, epochs=8, weight_decay=4e-3) | _VGG11,
            paper=rounds('paper', 2) | _VGG11,
        ),
        _ARMS,
    ),
    table=ArmTable(
        'FLOPs sparsity % / top-1 % after round',
        {'L1 norm < 1 % of its layer, % of filters': '{l1_small:.1p}'},
        step='{flops_sparsity:.1p} / {top1:.1f}',
    ),
    panels=[over_steps('5 % of the filters, from the smallest', 'l1_quantiles')],
)
