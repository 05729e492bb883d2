"""table 1 of the psBN paper: snapshot ensembles of ResNet-110, BN and psBN"""

from ...experiment import Experiment, sweep
from ...pictures import over_steps
from ...tables import ArmTable
from .._shared import LR
from ._rounds import CONFIG, DEPTH, HOOKS, NORMS, rounds

_ENSEMBLE = {'custom_hooks': [*HOOKS, dict(type='SnapshotEnsembleHook', num_snapshots=3)]}
# small: ResNet-20 for ResNet-110, S = 10 * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 a round at 0.2
# where the paper's 40 epochs have 7.8
_ROUNDS = dict(
    smoke=rounds('smoke', 3),
    small=rounds('small', 5, epochs=10),
    paper=rounds('paper', 5, epochs=40) | {DEPTH: 110},
)

EXPERIMENT = Experiment(
    claim='At LR 0.2 the ensemble of the last 3 of 5 snapshots has 94.86 % with psBN and 94.63 % '
    'with BN, the last net a FLOPs sparsity of 5.3 % and 31.6 %.',
    arms=lambda scale: sweep(
        CONFIG,
        _ROUNDS[scale] | _ENSEMBLE,
        {
            f'{norm}, {lr}': change | {LR: lr}
            for lr in ((0.2,) if scale == 'smoke' else (0.2, 0.1))
            for norm, change in NORMS.items()
        },
    ),
    table=ArmTable(
        'norm, LR: top-1 % / FLOPs sparsity % after round',
        step='{top1:.2f} / {flops_sparsity:.1p}',
        columns={'ensemble': '{ensemble:.2f}'},
    ),
    panels=over_steps('round', 'flops_sparsity', 'top1'),
)
