"""supplementary table 1 of the implicit-sparsity paper, CIFAR-10: BasicNet by layer, and error
before and after the filters are removed for real; at paper also the VGGs of the CIFAR-10 halves of
tables 7 and 10, and Li et al. and Network Slimming"""

from ...experiment import Arm, Experiment, sweep
from ._basic_net import CONFIGS, NETS, basic_net, by_decay
from ._layers import BY_LAYER, TABLE_2, VGG_SIZES, explicit, vggs

_DECAYS = dict(
    smoke={'Adam L2': (1e-3,), 'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-3, 1e-4), 'Adam WD': (1e-3,), 'SGD L2': (2e-3,)},
    paper=TABLE_2,
)
_NETS = NETS | dict(small=basic_net('64-0.5x'))


def _arms(scale: str) -> list[Arm]:
    arms = sweep(CONFIGS[10], _NETS[scale], by_decay(scale, _DECAYS[scale]))
    if scale == 'paper':
        arms += vggs(scale, VGG_SIZES, 10)
        arms += explicit(scale, 'Li et al.', 16, 10)
        arms += explicit(scale, 'Network Slimming', 19, 10)
    return arms


EXPERIMENT = Experiment(
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_arms,
    **BY_LAYER,
)
