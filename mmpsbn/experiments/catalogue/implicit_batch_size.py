from ..experiment import Experiment
from ._implicit import BY_BATCH, CONFIG, batch_sizes

_WHOLE = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}  # the larger ones take longer
_BATCH_SIZES = dict(smoke={1e-3: (80, 20)}, small=_WHOLE, paper=_WHOLE)

EXPERIMENT = Experiment(
    shows='table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size',
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    arms=batch_sizes(CONFIG, _BATCH_SIZES),
    **BY_BATCH,
)
