from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, CONVOLUTIONS, FIXED, NORMS, SCALES, TRAINED
from ._psbn import FEW

_DEPTHS = dict(smoke=(11,), small=(11,), paper=(19, 16, 13, 11))
_ROWS = TRAINED | {'all but gamma and beta': FIXED}
_SHOWN = dict(smoke=('BN',), small=('all', 'BN', 'output'), paper=tuple(_ROWS))
_VGG = dict(
    _delete_=True,
    type='VGG',
    norm_cfg=dict(type='BN'),
    with_last_pool=False,
    init_cfg=[CONVOLUTIONS, NORMS],
)


def _net(depth: int, scale: str) -> dict:
    few = FEW if scale == 'smoke' else {}
    return few | {'model.backbone': dict(_VGG, depth=depth), 'model.head.in_channels': 512}


EXPERIMENT = Experiment(
    shows='appendix C of the BN-only paper, figures 8 and 9: VGG nets, and shares of small gammas',
    claim='With all parameters trained accuracy does not differ with gamma and beta disabled; BN '
    'alone is well above chance, and above two random weights a channel.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}': _net(n, scale) | _ROWS[row]
            for n in _DEPTHS[scale]
            for row in _SHOWN[scale]
        },
    ),
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % at depth', '{top1:.1f} / {small_gammas:.0p}'
    ),
    panels=[over_columns('depth', 'top1')],
)
