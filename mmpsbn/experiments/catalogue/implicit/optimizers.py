"""table 1 of the implicit-sparsity paper: BasicNet, optimizer x L2 or weight decay"""

from ...experiment import Experiment
from ._basic_net import TABLE_1, optimizers

EXPERIMENT = Experiment(
    claim='At like error Adam with L2 leaves more filters inactive (70 %) than with weight decay '
    '(40 %) and than SGD (0 %), and so do Adadelta and Adagrad; without decay next to none are.',
    **optimizers(
        10,
        smoke={'SGD L2': (1e-3,), 'Adam L2': (1e-3, 0), 'Adam WD': (1e-3,)},
        small={
            'SGD L2': (2e-3, 1e-3, 1e-4),
            'Adam L2': (1e-3, 1e-4, 0),
            'Adadelta L2': (1e-3,),
            'Adagrad L2': (1e-2,),
            'SGD WD': (1e-3,),
            'Adam WD': (1e-3, 5e-4),
        },
        paper=TABLE_1,
    ),
)
