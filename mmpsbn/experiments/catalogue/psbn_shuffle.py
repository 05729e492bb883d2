from ..experiment import Experiment, sweep
from ._psbn import BY_ROUND, CONFIG, rounds

_SHUFFLE = {'custom_hooks': [dict(type='RoundsHook', shuffle=True), dict(type='SparsityHook')]}

EXPERIMENT = Experiment(
    shows='section 3.6 of the psBN paper: ResNet-20, its parameters shuffled between two rounds',
    claim='Trained on after each parameter tensor was shuffled the net still collapses filters, '
    'so they are not selected by the loss; its accuracy falls.',
    arms=sweep(
        CONFIG,
        dict(smoke=rounds('smoke', 2), small=rounds('small', 2), paper=rounds('paper', 2)),
        {'retrained': {}, 'shuffled': _SHUFFLE},
    ),
    **BY_ROUND,
)
