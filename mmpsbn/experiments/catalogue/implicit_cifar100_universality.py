from ..experiment import Experiment, sweep
from ..scales import PICTURES_100
from ._implicit import BY_UNIVERSALITY, CONFIG_100, NETS, by_decay, training

# the weak decays are those of figure 2; the strong one of SGD is ours
_DECAYS = dict(
    smoke={'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-5, 1e-3), 'SGD L2': (5e-4, 1e-3)},
    paper={'Adam L2': (1e-5, 1e-4), 'SGD L2': (5e-4, 1e-3)},
)
_SIZES = dict(smoke=(80,), small=(), paper=(160,))  # of Adam, figure 5; 40 is among the decays

EXPERIMENT = Experiment(
    shows='figure 3 of the implicit-sparsity paper and the CIFAR-100 part of figure 5: mean '
    'universality by layer, Adam and SGD with a weak and a strong decay, and by batch size (the '
    'figures have its distribution)',
    claim='In later layers Adam learns less universal features than SGD; the stronger L2 '
    'inactivates 64 % of those of C6 with Adam and leaves them mostly as they are with SGD.',
    arms=sweep(
        CONFIG_100,
        NETS,
        lambda scale: (
            by_decay(scale, _DECAYS[scale])
            | {f'Adam L2, batch {n}': training(scale, 'Adam L2', 1e-4, n) for n in _SIZES[scale]}
        ),
    ),
    **BY_UNIVERSALITY,
    data=PICTURES_100,
)
