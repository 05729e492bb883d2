from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, DEPTHS, FIXED, SCALES, TRAINED, depth

EXPERIMENT = Experiment(
    shows='figure 1 of the BN-only paper: all parameters trained, with gamma and beta and without',
    claim='Training with gamma and beta is 0.5 to 2 points more accurate than with them disabled.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}': depth(n) | options
            for n in DEPTHS[scale]
            for row, options in {'all': TRAINED['all'], 'all but gamma and beta': FIXED}.items()
        },
    ),
    table=GridTable('top-1 % / training loss at depth', '{top1:.1f} / {loss:.2f}'),
    panels=[over_columns('depth', 'top1')],
)
