from ..experiment import Experiment, sweep
from ..scales import PICTURES_100
from ._implicit import BY_LAYER, VGG, VGG_SIZES, vgg
from ._psbn import FEW

_SHOWN = dict(smoke={11: (40,)}, small={16: (160,)}, paper=VGG_SIZES)


def _arms(scale: str) -> dict:
    few = dict.fromkeys(FEW, 100) if scale == 'smoke' else {}
    return {
        f'VGG-{depth}, batch {size}': vgg(scale, depth, size, classes=100) | few
        for depth, sizes in _SHOWN[scale].items()
        for size in sizes
    }


EXPERIMENT = Experiment(
    shows='tables 7 and 10 of the implicit-sparsity paper on CIFAR-100: VGG-16 and VGG-19 by layer',
    claim='Adam with L2 1e-4 prunes most of the late layers; larger batches and the harder task '
    'leave fewer filters inactive.',
    arms=sweep(VGG, dict(smoke={}, small={}, paper={}), _arms),
    **BY_LAYER,
    data=PICTURES_100,
)
