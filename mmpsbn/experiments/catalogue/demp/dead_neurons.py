"""figures 1, 8 and 12 of the DemP paper: dead neurons of ResNet-18 over the epochs, with other
activations and under the penalty without pruning, as 512 pictures and as all tell, and their
overlap with those that ever were dead"""

from ...experiment import Arm, Experiment
from ...pictures import over_steps
from ...tables import ArmTable
from .._shared import LR, NOTHING_GOES
from ._resnet18 import ACTIVATIONS, TRAININGS, activation, config_of, demp, with_each_optimizer

_PEAKS = dict(smoke=(1e-3,), small=(1e-4, 1e-3), paper=(1e-5, 5e-5, 1e-4, 1e-3))
# batches: of 512 pictures, and all of an epoch
_LOOKS = dict(smoke=dict(few=1, all=5), small=dict(few=8, all=157), paper=dict(few=4, all=391))


def _watch(scale: str, eps: float = 0.0) -> list[dict]:
    """Two looks an epoch."""
    return [
        dict(
            type='SparsityHook',
            name=name,
            measures=('dead', 'revival'),
            activations=dict(interval_epochs=1, num_batches=count, eps=eps),
        )
        for name, count in _LOOKS[scale].items()
    ]


def _arms(scale: str) -> list[Arm]:
    penalised = {
        f'{peak:g}': demp(scale, prune=NOTHING_GOES, penalty=dict(peak=peak))
        for peak in _PEAKS[scale]
    }
    arms = with_each_optimizer(scale, penalised, watch=_watch(scale))
    for kind in ('Swish',) if scale == 'smoke' else ACTIVATIONS:
        for lr in (0.05, 0.01) if scale == 'paper' else (0.05,):
            options = activation(kind) | {LR: lr, 'custom_hooks': _watch(scale, eps=0.01)}
            arms.append(Arm(f'{kind}, LR {lr}', config_of('Adam'), TRAININGS[scale] | options))
    return arms


EXPERIMENT = Experiment(
    claim='Dead neurons accumulate early, also with Leaky ReLU and Swish, where |a| < 0.01 is '
    'dead; over 99 % of them stay so with Adam, three quarters with SGDM; 512 pictures tell as '
    'much as all.',
    arms=_arms,
    table=ArmTable(
        'optimizer, peak of the penalty; activation, rate of Adam',
        {
            'dead by 512 pictures, %': '{dead_by_epoch[few]:.1p}',
            'by all, %': '{dead_by_epoch[all]:.1p}',
            'overlap, %': '{overlap_by_epoch:.1p}',
            'revivals': '{revivals}',
            'top-1, %': '{top1:.1f}',
        },
    ),
    panels=over_steps('epoch', 'dead_by_epoch[few]', 'dead_by_epoch[all]', 'overlap_by_epoch'),
)
