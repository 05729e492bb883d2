"""figure 3 of the psBN paper: sparsity and accuracy of ResNet-20 over warm restarts"""

from ...experiment import Experiment, sweep
from ._rounds import BY_ROUND, CONFIG, NETS, rounds

_ROUNDS = dict(
    smoke=rounds('smoke', 2),
    small=rounds('small', 5, epochs=15),
    paper=rounds('paper', 9),
)

EXPERIMENT = Experiment(
    claim='With BN and ReLU the FLOPs sparsity grows with every round, Leaky ReLU changes little, '
    'psBN keeps it near 0 and with it the accuracy, which BN loses.',
    arms=lambda scale: sweep(CONFIG, _ROUNDS[scale], NETS),
    **BY_ROUND,
)
