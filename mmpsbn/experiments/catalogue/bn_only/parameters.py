"""figures 3 and 10 of the BN-only paper: accuracy against the number of trained parameters, BN in
deeper and in wider nets, and all of small nets"""

from ...experiment import Experiment, Options, sweep
from ...pictures import against
from ...tables import ArmTable
from .._shared import width
from ._nets import BOTH, CONFIG, DEEP, TRAININGS, of_depth

# (depth, channels); of the small nets all is trained. The paper's grid is not said: ours
_DEEPER = dict(smoke=((8, 4),), small=((32, 16), (14, 16)))
_DEEPER |= dict(paper=tuple((n, 16) for n in DEEP.sizes['paper']))
_WIDER = dict(smoke=(), small=((14, 32),), paper=tuple((14, 16 * k) for k in (32, 16, 8, 4, 2)))
_SMALL = dict(smoke=((8, 2),), small=((14, 2), (8, 2)))
_SMALL |= dict(paper=tuple((n, c) for c in (2, 4, 8) for n in (56, 32, 14, 8)))
_NETS = dict(deeper=(_DEEPER, 'BN'), wider=(_WIDER, 'BN'), small=(_SMALL, 'all'))


def _nets(scale: str) -> dict[str, Options]:
    return {
        f'{row}, {n}-{channels}': of_depth(n) | width(channels) | BOTH[trained]
        for row, (nets, trained) in _NETS.items()
        for n, channels in nets[scale]
    }


EXPERIMENT = Experiment(
    claim='With as many parameters of BN deeper nets are better than wider ones; small nets '
    'trained whole are better than both, at best by 5 to 10 points.',
    arms=lambda scale: sweep(CONFIG, TRAININGS[scale], _nets(scale)),
    table=ArmTable(
        'nets, depth-channels',
        {'trained parameters': '{trained_parameters}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=against('trained_parameters', 'top1'),
)
