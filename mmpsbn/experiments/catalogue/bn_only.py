from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, SCALES, TRAINED, depth

_ROWS = dict(smoke=('all', 'BN'), small=('all', 'BN'), paper=tuple(TRAINED))
# deep nets take longest and come first
_DEPTHS = dict(smoke=(14, 8), small=(56, 32, 14), paper=(866, 434, 218, 110, 56, 32, 14))

EXPERIMENT = Experiment(
    shows='figures 2, 5, 6 and 7 of the BN-only paper: accuracy and small gammas against depth',
    claim='BN alone trained, deeper nets get better (48 % at depth 14, 70 % at 110, 82 % at 866) '
    'and a quarter to a third of the gammas end below 0.01, which can be set to 0 at no loss; 28 % '
    'to 39 % of the ReLUs are off. With all trained 5 % of gammas do.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}': depth(n) | TRAINED[row] for n in _DEPTHS[scale] for row in _ROWS[scale]
        },
    ),
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / ReLUs off %, '
        'at depth',
        '{top1:.1f} / {small_gammas:.0p} / {change_clamped:+.1f} / {relus_off:.0p}',
    ),
    panels=[over_columns('depth', y) for y in ('top1', 'small_gammas[0.01]', 'relus_off')],
)
