"""supplementary figure 2 of the implicit-sparsity paper, CIFAR-10, with one decay for each
optimizer, and the CIFAR-10 part of figure 5: mean universality by layer, Adam and SGD, and by batch
size (the figures have its distribution)"""

from ...experiment import Experiment, Options
from ._basic_net import BY_UNIVERSALITY, on_cifar, training

_SIZES = dict(smoke=(80,), small=(40,), paper=(160, 80, 40, 20))


def _arms(scale: str) -> dict[str, Options]:
    decay = 1e-3 if scale == 'small' else 1e-4
    adam = {f'Adam, batch {n}': training(scale, 'Adam L2', decay, n) for n in _SIZES[scale]}
    return adam | {'SGD, batch 40': training(scale, 'SGD L2', 5e-4)}


EXPERIMENT = Experiment(
    claim='In later layers Adam learns less universal, more selective features than SGD; the '
    'larger the batch, the more selective ones are left.',
    **on_cifar(10, _arms),
    **BY_UNIVERSALITY,
)
