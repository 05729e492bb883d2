from ..experiment import Experiment, sweep
from ._psbn import BY_ROUND, CONFIG, NORMS, rounds

_LEAKY = {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=0.01, inplace=True)}
ARMS = {'BN + ReLU': {}, 'BN + Leaky ReLU': _LEAKY, 'psBN + ReLU': NORMS['psBN']}

EXPERIMENT = Experiment(
    shows='figure 3 of the psBN paper: sparsity and accuracy of ResNet-20 over warm restarts',
    claim='With BN and ReLU the FLOPs sparsity grows with every round, Leaky ReLU changes little, '
    'psBN keeps it near 0 and with it the accuracy, which BN loses.',
    arms=sweep(
        CONFIG,
        dict(
            smoke=rounds('smoke', 2), small=rounds('small', 5, epochs=15), paper=rounds('paper', 9)
        ),
        ARMS,
    ),
    **BY_ROUND,
)
