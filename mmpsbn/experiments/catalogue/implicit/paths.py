"""figure 2 and supplementary figure 1 of the implicit-sparsity paper: gamma and beta of C6 and C5
over the epochs on CIFAR-100, as percentiles over their channels"""

from ...experiment import Experiment
from ...scales import KEEP_ALL
from .._shared import by_epoch
from ._basic_net import WEAK_AND_STRONG, by_decay, on_cifar

_DECAYS = dict(
    smoke={'Adam L2': (1e-5,), 'SGD L2': (5e-4,)}, small=WEAK_AND_STRONG, paper=WEAK_AND_STRONG
)

EXPERIMENT = Experiment(
    claim='Gamma is positive with both optimizers; beta is negative with Adam, of both signs with '
    'SGD, so that Adam learns more selective features, which the stronger L2 prunes.',
    **on_cifar(
        100,
        lambda scale: {n: of | KEEP_ALL for n, of in by_decay(scale, _DECAYS[scale]).items()},
    ),
    **by_epoch('optimizer, decay', 'gamma_path', 'beta_path', 'gamma_path_c5', 'beta_path_c5'),
)
