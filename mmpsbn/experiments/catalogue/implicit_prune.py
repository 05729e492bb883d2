from ..experiment import Arm, Experiment, sweep
from ._implicit import BY_LAYER, CONFIG, NETS, VGG, VGG_SIZES, basic_net, by_decay, explicit, vgg

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
    lambda scale: by_decay(scale, _DECAYS[scale]),
)
_ARMS['paper'] += [
    Arm(f'VGG-{depth}, batch {size}', VGG, vgg('paper', depth, size, classes=10))
    for depth, sizes in VGG_SIZES.items()
    for size in sizes
]
_ARMS['paper'] += explicit('paper', 'Li et al.', 16, 10)
_ARMS['paper'] += explicit('paper', 'Network Slimming', 19, 10)

EXPERIMENT = Experiment(
    shows='supplementary table 1 of the implicit-sparsity paper, CIFAR-10: BasicNet by layer, and '
    'error before and after the filters are removed for real; at paper also the VGGs of the '
    'CIFAR-10 halves of tables 7 and 10, and Li et al. and Network Slimming',
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_ARMS,
    **BY_LAYER,
)
