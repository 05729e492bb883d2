from ..experiment import Arm, Experiment, Options
from ._psbn import BY_ROUND, CONFIG, FEW, TINY, rounds
from .psbn_rounds import ARMS

_VGG = 'cifar/vgg16_psbn_cifar10_in_memory.py'
_BN = {'model.backbone.norm_cfg': dict(_delete_=True, type='BN')}
# small: S = 3 rounds of 1.3, with twice the decay of psbn-rounds, for as many images
_ROUNDS = dict(
    smoke=lambda tiny: rounds('smoke', 2, tiny=tiny),
    small=lambda tiny: rounds('small', 3, epochs=4, weight_decay=4e-3),
    paper=lambda tiny: rounds('paper', 9),
)


def _arms(scale: str) -> list[Arm]:
    nets: dict[str, tuple[str, Options, Options]] = {
        'ResNet-56': (CONFIG, {'model.backbone.depth': 56}, TINY),
        'VGG16-BN': (_VGG, _BN, FEW | {'model.backbone.depth': 11}),
    }
    return [
        Arm(f'{net}, {name}', config, own | _ROUNDS[scale](tiny) | change)
        for net, (config, own, tiny) in nets.items()
        for name, change in ARMS.items()
        if scale != 'smoke' or 'Leaky' not in name
    ]


EXPERIMENT = Experiment(
    shows='figure 3 of the psBN paper, ResNet-56 and VGG16-BN: sparsity and accuracy over restarts',
    claim='As with ResNet-20: the sparsity grows with every round under BN and falls the accuracy, '
    'Leaky ReLU changes little, psBN inhibits both.',
    arms={scale: _arms(scale) for scale in _ROUNDS},
    **BY_ROUND,
)
