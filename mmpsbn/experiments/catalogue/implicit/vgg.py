"""tables 7 and 10 of the implicit-sparsity paper on CIFAR-100: VGG-16 and VGG-19 by layer, and
Network Slimming"""

from ...experiment import Arm, Experiment
from ...scales import PICTURES_100
from ._layers import BY_LAYER, VGG_SIZES, explicit, vggs


def _arms(scale: str) -> list[Arm]:
    if scale == 'small':
        return vggs(scale, {16: (160,)}, 100)
    if scale == 'paper':
        return vggs(scale, VGG_SIZES, 100) + explicit(scale, 'Network Slimming', 19, 100)
    return [
        *vggs(scale, {11: (40,)}, 100),
        *explicit(scale, 'Li et al.', 11, 100),  # of CIFAR-10 alone in the paper
        *explicit(scale, 'Network Slimming', 11, 100),
    ]


EXPERIMENT = Experiment(
    claim='Adam with L2 1e-4 prunes most of the late layers; larger batches and the harder task '
    'leave fewer filters inactive. Network Slimming prunes 50 % of VGG-19 at a test error of 26.7.',
    arms=_arms,
    **BY_LAYER,
    data=PICTURES_100,
)
