from ..experiment import Experiment
from ..pictures import over_columns
from ..tables import GridTable
from ._psbn import CELL, CELLS, one_round

# small: S = 3.9 at 0.1 and 39 at 1.0, the paper's 9.8 and 98
EXPERIMENT = Experiment(
    shows='figure 5a of the psBN paper: sparsity of ResNet-20 against the learning rate',
    claim='The larger the learning rate, the more filters collapse under BN.',
    arms=one_round(
        lambda lr: {'optim_wrapper.optimizer.lr': lr},
        smoke=(0.1, 1.0),
        small=(0.1, 0.3, 1.0),
        paper=(0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    ),
    table=GridTable(f'{CELLS} at LR', CELL),
    panels=[over_columns('learning rate', y) for y in ('flops_sparsity', 'top1')],
)
