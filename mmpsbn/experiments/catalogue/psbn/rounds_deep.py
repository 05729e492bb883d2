"""figure 3 of the psBN paper, ResNet-56 and VGG16-BN: sparsity and accuracy over restarts"""

from ...experiment import Arm, Experiment
from .._shared import FEW
from ._rounds import BY_ROUND, CONFIG, DEPTH, NETS, NORMS, TINY, VGG, rounds

_DEEP = {
    'ResNet-56': (CONFIG, {DEPTH: 56}, TINY),
    'VGG16-BN': (VGG, NORMS['BN'], FEW | {DEPTH: 11}),
}
# small: S = 3 rounds of 1.3, with twice the decay of psbn-rounds, for as many images
_ROUNDS = dict(
    smoke=dict(count=2), small=dict(count=3, epochs=4, weight_decay=4e-3), paper=dict(count=9)
)


def _arms(scale: str) -> list[Arm]:
    return [
        Arm(f'{net}, {name}', config, own | rounds(scale, tiny=tiny, **_ROUNDS[scale]) | of)
        for net, (config, own, tiny) in _DEEP.items()
        for name, of in NETS.items()
        if scale != 'smoke' or 'Leaky' not in name
    ]


EXPERIMENT = Experiment(
    claim='As with ResNet-20: the sparsity grows with every round under BN and falls the accuracy, '
    'Leaky ReLU changes little, psBN inhibits both.',
    arms=_arms,
    **BY_ROUND,
)
