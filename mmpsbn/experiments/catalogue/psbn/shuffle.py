"""section 3.6 of the psBN paper: ResNet-20, its parameters shuffled between two rounds"""

from ...experiment import Experiment, sweep
from ._rounds import BY_ROUND, CONFIG, rounds

_SHUFFLE = {'custom_hooks': [dict(type='RoundsHook', shuffle=True), dict(type='SparsityHook')]}

EXPERIMENT = Experiment(
    claim='Trained on after each parameter tensor was shuffled the net still collapses filters, '
    'so they are not selected by the loss; its accuracy falls.',
    arms=lambda scale: sweep(CONFIG, rounds(scale, 2), {'retrained': {}, 'shuffled': _SHUFFLE}),
    **BY_ROUND,
)
