from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, DEPTHS, SCALES, TRAINED, depth, trained

_ROWS = {
    'all': TRAINED['all'],
    'BN': TRAINED['BN'],
    'BN + shortcuts + output': trained('norm', 'downsample.0', 'head.fc'),
    'shortcuts + output': trained('downsample.0', 'head.fc'),
}

EXPERIMENT = Experiment(
    shows='figure 12 of the BN-only paper: shortcut convolutions and output layer trained too',
    claim='BN + shortcuts + output improves ResNet-14 from 48 % to 63 % and ResNet-110 by five '
    'points, ResNet-866 not at all; shortcuts + output alone have 49 % at depth 14.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}': depth(n) | options
            for n in (DEPTHS[scale][-1:] if scale == 'smoke' else DEPTHS[scale])
            for row, options in _ROWS.items()
            if scale != 'smoke' or 'shortcuts' in row
        },
    ),
    table=GridTable('top-1 % at depth', '{top1:.1f}'),
    panels=[over_columns('depth', 'top1')],
)
