from ..experiment import Experiment, sweep
from ..scales import PICTURES_100
from ._implicit import BY_LAYER, VGG, VGG_SIZES, explicit, vgg
from ._psbn import FEW

_SHOWN = dict(smoke={11: (40,)}, small={16: (160,)}, paper=VGG_SIZES)


_FEW = dict.fromkeys(FEW, 100)


def _arms(scale: str) -> dict:
    return {
        f'VGG-{depth}, batch {size}': vgg(scale, depth, size, classes=100)
        for depth, sizes in _SHOWN[scale].items()
        for size in sizes
    }


_ARMS = sweep(VGG, dict(smoke=_FEW, small={}, paper={}), _arms)
_ARMS['smoke'] += explicit('smoke', 'Li et al.', 11, 100, **_FEW)  # of CIFAR-10 alone in the paper
_ARMS['smoke'] += explicit('smoke', 'Network Slimming', 11, 100, **_FEW)
_ARMS['paper'] += explicit('paper', 'Network Slimming', 19, 100)


EXPERIMENT = Experiment(
    shows='tables 7 and 10 of the implicit-sparsity paper on CIFAR-100: VGG-16 and VGG-19 by '
    'layer, and Network Slimming',
    claim='Adam with L2 1e-4 prunes most of the late layers; larger batches and the harder task '
    'leave fewer filters inactive. Network Slimming prunes 50 % of VGG-19 at a test error of 26.7.',
    arms=_ARMS,
    **BY_LAYER,
    data=PICTURES_100,
)
