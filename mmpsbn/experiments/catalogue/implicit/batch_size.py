"""table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size"""

from ...experiment import Experiment
from ._basic_net import TABLE_3, batch_sizes

EXPERIMENT = Experiment(
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    **batch_sizes(10, smoke={1e-3: (80, 20)}, small=TABLE_3, paper=TABLE_3),
)
