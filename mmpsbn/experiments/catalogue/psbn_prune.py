from ..experiment import Arm, Experiment
from ..pictures import against
from ..tables import ArmTable
from ._cut_once import cut_once
from ._psbn import CONFIG, HOOKS, rounds

# The settings are in a supplement that the text lacks; ours: two rounds for every way, but for
# retraining, of which each round is shown. Ablated are the filters with the smallest L1 norms, the
# same share of each layer, or random ones, once and before the second round.
_COUNT = dict(smoke=2, small=5, paper=9)
_EPOCHS = dict(smoke=dict(epochs=2), small=dict(epochs=15), paper={})
_LRS = dict(smoke=(0.3,), small=(0.2, 0.3, 0.4), paper=(0.2, 0.4, 0.6, 0.8, 1.0))
_DECAYS = dict(smoke=(1e-3,), small=(2e-3, 8e-3), paper=(1e-4, 2e-4, 5e-4, 1e-3))  # of Adam, L2
_ITERATIONS = dict(smoke=20, small=2_355, paper=39_100)  # of a round
_SHARES = dict(smoke=(60,), small=(75, 50, 25), paper=(90, 75, 60, 45, 30, 15))  # FLOPs left, %


def _arms(scale: str) -> list[Arm]:
    one, two = (rounds(scale, count, **_EPOCHS[scale]) for count in (1, 2))
    count = _COUNT[scale]
    lr = 'optim_wrapper.optimizer.lr'
    adam = dict(_delete_=True, type='Adam', lr=1e-3)
    return [
        Arm(f'retrain, {count} rounds', CONFIG, rounds(scale, count, **_EPOCHS[scale])),
        *(Arm(f'larger LR, {rate}', CONFIG, two | {lr: rate}) for rate in _LRS[scale]),
        *(
            Arm(
                f'Adam, {decay:g}',
                CONFIG,
                two | {'optim_wrapper.optimizer': dict(adam, weight_decay=decay)},
            )
            for decay in _DECAYS[scale]
        ),
        Arm('first round, 100', CONFIG, one),
        *(
            Arm(
                f'{score} ablation, {share}',
                CONFIG,
                one | {'custom_hooks': [*HOOKS, cut_once(score, share / 100, _ITERATIONS[scale])]},
                pretrained='first round, 100',
                whole=True,
            )
            for score in ('uniform', 'random')
            for share in _SHARES[scale]
        ),
    ]


EXPERIMENT = Experiment(
    shows='figure 4 of the psBN paper: ResNet-20 pruned by collapse and by uniform ablation of the '
    'filters with the smallest L1 norms, or of random ones',
    claim='No way of collapse, by retraining, larger learning rates or Adam, is better than the '
    'naive uniform ablation of filters: to prune the collapsed ones is not better than to prune '
    'random ones.',
    arms={scale: _arms(scale) for scale in _COUNT},
    table=ArmTable(
        'way, setting',
        {'FLOPs left, %': '{flops_left:.1p}', 'collapsed': '{collapsed}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=[against('flops_left', 'top1')],
)
