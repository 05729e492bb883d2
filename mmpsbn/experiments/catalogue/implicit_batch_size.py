from ..experiment import Experiment, sweep
from ..pictures import against, over_columns
from ..tables import GridTable
from ._implicit import CONFIG, NETS, training

_WHOLE = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}  # the larger ones take longer
_BATCH_SIZES = dict(smoke={1e-3: (80, 20)}, small=_WHOLE, paper=_WHOLE)

EXPERIMENT = Experiment(
    shows='table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size',
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    arms=sweep(
        CONFIG,
        NETS,
        lambda scale: {
            f'L2 {decay:g}, {size}': training(scale, 'Adam L2', decay, size)
            for decay, sizes in _BATCH_SIZES[scale].items()
            for size in sizes
        },
    ),
    table=GridTable(
        '% inactive by gamma / test error % / training loss at batch size',
        '{small_share:.0p} / {error:.1f} / {loss:.2f}',
    ),
    panels=[over_columns('batch size', 'small_share'), against('small_share', 'error')],
)
