from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import FIXED, SCALES, TRAINED

_WIDTHS = dict(smoke=(0.5, 0.25), small=(2, 1, 0.5), paper=(32, 16, 8, 4, 2, 1))
_TRAINED = TRAINED | {'all but gamma and beta': FIXED}
_ROWS = dict(smoke=('all', 'BN'), small=('all', 'BN'), paper=tuple(_TRAINED))

EXPERIMENT = Experiment(
    shows='the WRN half of figures 1, 2, 5, 6 and 7 of the BN-only paper: WRN-14-k against width',
    claim='BN alone trained, wider nets get better (73 % for WRN-14-32), less so than deeper ones '
    'with as many parameters.',
    arms=sweep(
        'cifar/wrn14x4_bn_cifar10_in_memory.py',
        SCALES,
        lambda scale: {
            f'{row}, {width}': _TRAINED[row]
            | {
                'model.backbone.base_channels': int(16 * width),
                'model.head.in_channels': int(64 * width),
            }
            for width in _WIDTHS[scale]
            for row in _ROWS[scale]
        },
    ),
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / ReLUs off %, '
        'at width',
        '{top1:.1f} / {small_gammas:.0p} / {change_clamped:+.1f} / {relus_off:.0p}',
    ),
    panels=[over_columns('width', y) for y in ('top1', 'small_gammas[0.01]', 'relus_off')],
)
