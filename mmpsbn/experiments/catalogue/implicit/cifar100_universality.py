"""figure 3 of the implicit-sparsity paper and the CIFAR-100 part of figure 5: mean universality by
layer, Adam and SGD with a weak and a strong decay, and by batch size (the figures have its
distribution)"""

from ...experiment import Experiment, Options
from ._basic_net import BY_UNIVERSALITY, WEAK_AND_STRONG, by_decay, on_cifar, training

_DECAYS = dict(
    smoke={'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-5, 1e-3), 'SGD L2': (5e-4, 1e-3)},
    paper=WEAK_AND_STRONG,
)
# of figure 5; 40 is among the decays
_SIZES = dict(smoke=(80,), small=(), paper=(160,))


def _arms(scale: str) -> dict[str, Options]:
    return by_decay(scale, _DECAYS[scale]) | {
        f'Adam L2, batch {n}': training(scale, 'Adam L2', 1e-4, n) for n in _SIZES[scale]
    }


EXPERIMENT = Experiment(
    claim='In later layers Adam learns less universal features than SGD; the stronger L2 '
    'inactivates 64 % of those of C6 with Adam and leaves them mostly as they are with SGD.',
    **on_cifar(100, _arms),
    **BY_UNIVERSALITY,
)
