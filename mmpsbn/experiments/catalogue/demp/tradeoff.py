"""figure 3 of the DemP paper: accuracy of ResNet-18 against weight sparsity, and training time"""

from ...experiment import Arm, Experiment
from ...pictures import against
from ...tables import ArmTable
from ._resnet18 import PEAKS, demp, with_each_optimizer

_PEAKS = PEAKS | dict(small=(1e-4, 3e-4, 1e-3))


def _arms(scale: str) -> list[Arm]:
    penalties = {f'{peak:g}': demp(scale, penalty=dict(peak=peak)) for peak in _PEAKS[scale]}
    return with_each_optimizer(scale, {'dense': []} | penalties)


EXPERIMENT = Experiment(
    claim='The stronger the penalty, the sparser the net; four fifths of the weights go at little '
    'accuracy, and the whole training of the sparsest that keeps it is 2.45 times as fast as '
    "dense (here: the last net's step).",
    arms=_arms,
    table=ArmTable(
        'optimizer, peak of the penalty',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'channels, %': '{removed[channels]:.1p}',
            'FLOPs, %': '{removed[macs]:.1p}',
            'training, s': '{train_seconds:.0f}',
            'last step, faster than dense': '{speedup:.2f}x',
        },
    ),
    panels=against('removed[weights]', 'top1', 'speedup'),
)
