from ..experiment import Experiment
from ..pictures import against
from ..tables import ArmTable
from ._demp import SCALES, demp, with_each_optimizer

_PEAKS = dict(smoke=(1e-3,), small=(3e-4, 1e-3), paper=(5e-4, 1e-3, 2e-3, 4e-3))
_LAST = dict(smoke=0.7, small=0.99, paper=0.97)  # of the training: one event is left
_ALL = dict(smoke=128, small=10_000, paper=50_000)  # pictures


def _arms(scale: str) -> dict[str, list[dict]]:
    ways = {
        'during training': {},
        'at the end': dict(begin=_LAST[scale]),
        'all pictures looked at': dict(num_samples=_ALL[scale]),
    }
    return {
        f'{name}, {peak:g}': demp(scale, prune=prune, penalty=dict(peak=peak))
        for name, prune in ways.items()
        for peak in _PEAKS[scale]
    }


EXPERIMENT = Experiment(
    shows='figure 7 of the DemP paper: pruning during training or at its end; and, ours, dead as '
    'seen on 512 pictures or on all while pruning (figure 12 counts both without pruning)',
    claim='With Adam pruning during training does not affect performance, with SGDM it further '
    'improves sparsity.',
    arms={scale: with_each_optimizer(scale, _arms(scale)) for scale in SCALES},
    table=ArmTable(
        'optimizer, pruned, peak of the penalty',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
        },
    ),
    panels=[against('removed[weights]', 'top1')],
)
