"""figure 2 of the DemP paper: dead units of ResNet-18 against the strength of penalties, and with
noise on what lives, without pruning"""

from ...experiment import Arm, Experiment
from ...pictures import over_columns
from ...tables import GridTable
from .._shared import NOTHING_GOES
from ._resnet18 import PENALTIES, demp, with_each_optimizer

# its optimizer is not said, nor the values of the noise: those of figure 6
_STDS = dict(smoke=(5e-4,), small=(5e-4,), paper=(5e-5, 1e-4, 5e-4, 1e-3))
_STRENGTHS = dict(smoke=(1e-3,), small=(3e-4, 1e-3, 3e-3), paper=(1e-3, 2.5e-3, 5e-3, 1e-2))


def _arms(scale: str) -> list[Arm]:
    ways = {name: (of, 0.0) for name, of in ({'Lasso on gamma': {}} | PENALTIES).items()}
    ways |= {f'Lasso on gamma and noise of {std:g}': ({}, std) for std in _STDS[scale]}
    hooks = {
        f'{name}, {peak:g}': demp(
            scale,
            prune=NOTHING_GOES,
            penalty=dict(penalty, peak=peak),
            noise=dict(peak_std=std),
        )
        for name, (penalty, std) in ways.items()
        for peak in _STRENGTHS[scale]
    }
    return with_each_optimizer(scale, hooks)


EXPERIMENT = Experiment(
    claim='A stronger penalty leaves a larger share of dead units, and so does asymmetric noise on '
    'the weights of live ones.',
    arms=_arms,
    table=GridTable('dead % / top-1 % at peak', '{inactive_share:.1p} / {top1:.1f}'),
    panels=over_columns('peak of the penalty', 'inactive_share'),
)
