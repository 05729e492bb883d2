from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..scales import PICTURES_100
from ..tables import GridTable
from ._implicit import CONFIG_100, NETS, training

_WHOLE = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}
_SIZES = dict(smoke={1e-3: (80,)}, small={1e-3: (80, 20)}, paper=_WHOLE)

EXPERIMENT = Experiment(
    shows='table 3 of the implicit-sparsity paper on CIFAR-100: BasicNet with Adam and L2, batches',
    claim='At as many iterations larger batches leave fewer filters inactive: 57 % at 20 and 29 % '
    'at 160 with L2 1e-4.',
    arms=sweep(
        CONFIG_100,
        NETS,
        lambda scale: {
            f'L2 {decay:g}, {size}': training(scale, 'Adam L2', decay, size)
            for decay, sizes in _SIZES[scale].items()
            for size in sizes
        },
    ),
    table=GridTable(
        '% inactive by gamma / test error % / training loss at batch size',
        '{small_share:.0p} / {error:.1f} / {loss:.2f}',
    ),
    panels=[over_columns('batch size', y) for y in ('small_share', 'error')],
    data=PICTURES_100,
)
