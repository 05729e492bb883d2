"""figure 5a of the psBN paper: sparsity of ResNet-20 against the learning rate"""

from ...experiment import Experiment
from .._shared import LR
from ._rounds import one_round

EXPERIMENT = Experiment(
    claim='The larger the learning rate, the more filters collapse under BN.',
    **one_round(
        'learning rate',
        lambda lr: {LR: lr},
        smoke=(0.1, 1.0),
        small=(0.1, 0.3, 1.0),  # S = 3.9 at 0.1 and 39 at 1.0, the paper's 9.8 and 98
        paper=(0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    ),
)
