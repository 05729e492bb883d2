"""table 3 of the implicit-sparsity paper on CIFAR-100: BasicNet with Adam and L2, batches"""

from ...experiment import Experiment
from ._basic_net import TABLE_3, batch_sizes

EXPERIMENT = Experiment(
    claim='At as many iterations larger batches leave fewer filters inactive: 57 % at 20 and 29 % '
    'at 160 with L2 1e-4.',
    **batch_sizes(100, smoke={1e-3: (80,)}, small={1e-3: (80, 20)}, paper=TABLE_3),
)
