"""figures 4, 5, 6 and 13 of the DemP paper: schedules, penalties and noise"""

from ...experiment import Arm, Experiment
from ...pictures import against
from ...tables import ArmTable
from ._resnet18 import PEAKS, PENALTIES, demp, with_each_optimizer

_ABLATIONS = {
    'as DemP': {},
    # figure 4: schedules
    'schedule constant': dict(schedule=dict(type='constant')),
    'schedule warmup': dict(schedule=dict(type='warmup')),
    'schedule cosine': dict(schedule=dict(type='cosine')),
    # figure 5: penalties
    **{name: dict(penalty=of) for name, of in PENALTIES.items()},
    # figure 6: noise
    'no noise': dict(noise=dict(peak_std=0.0)),
    'noise 1e-4': dict(noise=dict(peak_std=1e-4)),
    'noise 5e-4': dict(noise=dict(peak_std=5e-4)),
    'noise 1e-3': dict(noise=dict(peak_std=1e-3)),
    'symmetric noise': dict(noise=dict(asymmetric=False)),
}
_SHOWN = dict(
    smoke=('schedule constant', 'L2 on all'),
    small=('as DemP', 'schedule constant', 'L2 on gamma', 'no noise'),
    paper=tuple(_ABLATIONS),
)
_PEAKS = PEAKS | dict(small=(1e-3,))
# figure 13: noise without a penalty; its values are in the picture alone: those of figure 6
_NOISE_ALONE = dict(smoke=(5e-4,), small=(5e-5, 5e-4), paper=(5e-5, 1e-4, 5e-4, 1e-3))


def _arms(scale: str) -> list[Arm]:
    hooks = {}
    for name, asymmetric in {'noise': True, 'symmetric noise': False}.items():
        for std in _NOISE_ALONE[scale]:
            noise = dict(peak_std=std, asymmetric=asymmetric)
            hooks[f'{name} alone, {std:g}'] = demp(scale, penalty=dict(peak=0.0), noise=noise)
    for name in _SHOWN[scale]:
        for peak in _PEAKS[scale]:
            penalty = dict(peak=peak) | _ABLATIONS[name].get('penalty', {})
            hooks[f'{name}, {peak:g}'] = demp(scale, **_ABLATIONS[name] | dict(penalty=penalty))
    return with_each_optimizer(scale, hooks)


EXPERIMENT = Experiment(
    claim='One-cycle is a good default among the schedules; with SGDM Lasso on gamma is the best '
    'penalty, with Adam L2 on gamma slightly better; a little noise adds sparsity, more costs '
    'accuracy; noise alone sparsifies too, at a worse tradeoff, and there that it is asymmetric '
    'makes no difference.',
    arms=_arms,
    table=ArmTable(
        'optimizer, what differs, peak of the penalty or of noise alone',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'channels, %': '{removed[channels]:.1p}',
        },
    ),
    panels=against('removed[weights]', 'top1'),
)
