from ..experiment import Experiment, sweep
from ..scales import PICTURES_100
from ._implicit import BY_LAYER, training
from ._psbn import FEW

_SIZES = (40, 80, 160)
_HUNDRED = {'model.head.num_classes': 100}


def _arms(scale: str) -> dict:
    if scale == 'smoke':
        few = dict.fromkeys(FEW, 100)
        net = few | {'model.backbone.depth': 11}
        return {'VGG-11, batch 40': training(scale, 'Adam L2', 1e-4) | _HUNDRED | net}
    depths, sizes = ((16, 19), _SIZES) if scale == 'paper' else ((16,), (160,))
    return {
        f'VGG-{depth}, batch {size}': training(scale, 'Adam L2', 1e-4, size)
        | _HUNDRED
        | {'model.backbone.depth': depth}
        for depth in depths
        for size in sizes
    }


EXPERIMENT = Experiment(
    shows='tables 7 and 10 of the implicit-sparsity paper on CIFAR-100: VGG-16 and VGG-19 by layer',
    claim='Adam with L2 1e-4 prunes most of the late layers; larger batches and the harder task '
    'leave fewer filters inactive.',
    arms=sweep('cifar/vgg16_bn_cifar10_in_memory.py', dict(smoke={}, small={}, paper={}), _arms),
    **BY_LAYER,
    data=PICTURES_100,
)
