"""figure 4 of the psBN paper: ResNet-20 pruned by collapse and by uniform ablation of the filters
with the smallest L1 norms, or of random ones"""

from typing import Any

from ...experiment import Arm, Experiment, Options
from ...pictures import against
from ...tables import ArmTable
from .._shared import LR, cut_once
from ._rounds import CONFIG, HOOKS, rounds

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
    def arm(name: str, count: int, own: Options | None = None, **start: Any) -> Arm:
        return Arm(name, CONFIG, rounds(scale, count, **_EPOCHS[scale]) | (own or {}), **start)

    count, first = _COUNT[scale], 'first round, 100'
    arms = [arm(f'retrain, {count} rounds', count)]
    arms += [arm(f'larger LR, {rate}', 2, {LR: rate}) for rate in _LRS[scale]]
    for decay in _DECAYS[scale]:
        adam = dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=decay)
        arms.append(arm(f'Adam, {decay:g}', 2, {'optim_wrapper.optimizer': adam}))
    arms.append(arm(first, 1))
    for score in ('uniform', 'random'):
        for share in _SHARES[scale]:
            hooks = [*HOOKS, cut_once(score, share / 100, _ITERATIONS[scale])]
            start = dict(pretrained=first, whole=True)
            arms.append(arm(f'{score} ablation, {share}', 1, {'custom_hooks': hooks}, **start))
    return arms


EXPERIMENT = Experiment(
    claim='No way of collapse, by retraining, larger learning rates or Adam, is better than the '
    'naive uniform ablation of filters: to prune the collapsed ones is not better than to prune '
    'random ones.',
    arms=_arms,
    table=ArmTable(
        'way, setting',
        {'FLOPs left, %': '{flops_left:.1p}', 'collapsed': '{collapsed}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=against('flops_left', 'top1'),
)
