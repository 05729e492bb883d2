"""sections 3.4 and 3.5 and figure 1a of the psBN paper: VGG-11 with BN, without, with instance
norm, and linear"""

from ...experiment import Experiment, sweep
from ...pictures import over_steps
from ...tables import ArmTable
from .._shared import FEW, LR
from ._rounds import ACTIVATION, DEPTH, NORM, NORMS, VGG, rounds

# small: S = 2 rounds of 2.5, with twice the decay of psbn-rounds and 8 epochs
_ROUNDS = dict(
    smoke=rounds('smoke', 2, tiny=FEW),
    small=rounds('small', 2, epochs=8, weight_decay=4e-3),
    paper=rounds('paper', 2),
)

EXPERIMENT = Experiment(
    claim='At the end of the second round the L1 norms of the filters have a peak at 0 with BN and '
    'none without; instance norm has collapsed filters too, a linear net less than 1 %.',
    arms=lambda scale: sweep(
        VGG,
        _ROUNDS[scale] | {DEPTH: 11},
        {
            'BN + ReLU': NORMS['BN'],
            # a tenth of the rate is ours; without gamma SparsityHook has nothing to see
            'no norm': {NORM: None, LR: 0.01, 'custom_hooks': [dict(type='RoundsHook')]},
            'instance norm': {NORM: dict(_delete_=True, type='IN', affine=True)},
            'BN, linear': NORMS['BN'] | {ACTIVATION: None},
        },
    ),
    table=ArmTable(
        'FLOPs sparsity % / top-1 % after round',
        {'L1 norm < 1 % of its layer, % of filters': '{l1_small:.1p}'},
        step='{flops_sparsity:.1p} / {top1:.1f}',
    ),
    panels=over_steps('5 % of the filters, from the smallest', 'l1_quantiles'),
)
