"""figure 7 of the DemP paper: pruning during training or at its end"""

from ...experiment import Arm, Experiment
from ...pictures import against
from ...tables import ArmTable
from ._resnet18 import PEAKS, demp, with_each_optimizer

_LAST = dict(smoke=0.7, small=0.99, paper=0.97)  # of the training: one event is left


def _arms(scale: str) -> list[Arm]:
    ways = {'during training': {}, 'at the end': dict(begin=_LAST[scale])}
    hooks = {
        f'{name}, {peak:g}': demp(scale, prune=prune, penalty=dict(peak=peak))
        for name, prune in ways.items()
        for peak in PEAKS[scale]
    }
    return with_each_optimizer(scale, hooks)


EXPERIMENT = Experiment(
    claim='With Adam pruning during training does not affect performance, with SGDM it further '
    'improves sparsity.',
    arms=_arms,
    table=ArmTable(
        'optimizer, pruned, peak of the penalty',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
        },
    ),
    panels=against('removed[weights]', 'top1'),
)
