from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, DEPTHS, SCALES, TRAINED, depth, trained

_ROWS = TRAINED | {f'{k} random a channel': trained(per_channel=k) for k in (4, 8, 16)}
_ROWS |= {'2 random a channel + output': trained('head.fc', per_channel=2)}
_SMOKE = ('BN + output', 'output', '2 random a channel')

EXPERIMENT = Experiment(
    shows='the controls of figure 2 of the BN-only paper, and figures 13 and 14: other sets of '
    'parameters trained',
    claim='Two random weights a channel, as many as gamma and beta, reach far less than BN; it '
    'takes 8 for the shallower nets and 16 for the deeper ones. BN + output is a little better '
    'than BN, two random weights + output match it at best.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {n}': depth(n) | options
            for n in (DEPTHS[scale][-1:] if scale == 'smoke' else DEPTHS[scale])
            for row, options in _ROWS.items()
            if scale != 'smoke' or row in _SMOKE
        },
    ),
    table=GridTable('top-1 % at depth', '{top1:.1f}'),
    panels=[over_columns('depth', 'top1')],
)
