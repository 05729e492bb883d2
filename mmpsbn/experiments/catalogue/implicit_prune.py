from ..experiment import Arm, Experiment, sweep
from ._implicit import BY_LAYER, CONFIG, NETS, basic_net, training

_DECAYS = dict(
    smoke={'Adam L2': (1e-3,), 'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-3, 1e-4), 'Adam WD': (1e-3,), 'SGD L2': (2e-3,)},
    paper={
        'Adam L2': (1e-3, 1e-4),
        'Adam WD': (2e-4, 1e-4),
        'SGD L2': (1e-3, 5e-4),
        'SGD WD': (1e-3, 5e-4),
    },
)
_ARMS = sweep(
    CONFIG,
    NETS | dict(small=basic_net('64-0.5x')),
    lambda scale: {
        f'{optimizer} {decay:g}': training(scale, optimizer, decay)
        for optimizer, decays in _DECAYS[scale].items()
        for decay in decays
    },
)
_VGG = 'cifar/vgg16_bn_cifar10_in_memory.py'
_ARMS['paper'] += [
    Arm(f'VGG-16, batch {size}', _VGG, training('paper', 'Adam L2', 1e-4, size))
    for size in (40, 80, 160)
]

EXPERIMENT = Experiment(
    shows='tables 2 and 7 of the implicit-sparsity paper: by layer, and error before and after '
    'the filters are removed for real',
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_ARMS,
    **BY_LAYER,
)
