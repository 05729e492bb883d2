from ..experiment import Experiment, Options, sweep
from ..pictures import against
from ..tables import ArmTable
from ._bn_only import CONFIG, SCALES, TRAINED, depth


def _net(layers: int, channels: int) -> Options:
    width = {'model.backbone.base_channels': channels, 'model.head.in_channels': 4 * channels}
    return depth(layers) | width


# (depth, channels); of the small nets all is trained. The paper's grid is not said: ours
_DEEPER = dict(smoke=((8, 4),), small=((32, 16), (14, 16)))
_DEEPER |= dict(paper=tuple((n, 16) for n in (866, 434, 218, 110, 56, 32, 14)))
_WIDER = dict(smoke=(), small=((14, 32),), paper=tuple((14, 16 * k) for k in (32, 16, 8, 4, 2)))
_SMALL = dict(smoke=((8, 2),), small=((14, 2), (8, 2)))
_SMALL |= dict(paper=tuple((n, c) for c in (2, 4, 8) for n in (56, 32, 14, 8)))
_ROWS = dict(deeper=(_DEEPER, 'BN'), wider=(_WIDER, 'BN'), small=(_SMALL, 'all'))

EXPERIMENT = Experiment(
    shows='figures 3 and 10 of the BN-only paper: accuracy against the number of trained '
    'parameters, BN in deeper and in wider nets, and all of small nets',
    claim='With as many parameters of BN deeper nets are better than wider ones; small nets '
    'trained whole are better than both, at best by 5 to 10 points.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}-{channels}': _net(n, channels) | TRAINED[trained]
            for row, (nets, trained) in _ROWS.items()
            for n, channels in nets[scale]
        },
    ),
    table=ArmTable(
        'nets, depth-channels',
        {'trained parameters': '{trained_parameters}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=[against('trained_parameters', 'top1')],
)
