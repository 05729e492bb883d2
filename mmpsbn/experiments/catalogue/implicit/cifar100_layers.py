"""table 2 and supplementary tables 2 and 3 of the implicit-sparsity paper: CIFAR-100, filters
pruned by layer; AMSGrad, Leaky ReLU, initial beta, rates of gamma and beta"""

from ...experiment import Experiment, Options
from ._basic_net import by_decay, on_cifar, training
from ._layers import BY_LAYER, TABLE_2

_XAVIER = dict(type='Xavier', layer='Conv2d', gain=2**0.5)


def _leaky(slope: float) -> Options:
    return {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=slope, inplace=True)}


def _beta(beta: float) -> Options:
    return {'model.backbone.init_cfg': [_XAVIER, dict(type='NormAffine', beta=beta)]}


def _slow(parameter: str) -> Options:
    return {'optim_wrapper.paramwise_cfg': dict(custom_keys={parameter: dict(lr_mult=0.1)})}


# of Adam with L2 1e-4: supplementary tables 2 and 3
_CHANGES = {
    'Leaky ReLU, 0.01': _leaky(0.01),
    'Leaky ReLU, 0.1': _leaky(0.1),
    'initial beta -0.1': _beta(-0.1),
    'initial beta 1': _beta(1.0),
    'LR of gamma x 0.1': _slow('bn.weight'),
    'LR of beta x 0.1': _slow('bn.bias'),
}


def _arms(scale: str) -> dict[str, Options]:
    if scale == 'small':
        return by_decay(scale, {'Adam L2': (1e-3,), 'SGD L2': (1e-3,), 'Adam WD': (1e-3,)})
    adam = training(scale, 'Adam L2', 1e-4)
    changed = {name: adam | change for name, change in _CHANGES.items()}
    if scale == 'smoke':
        shown = ('Leaky ReLU, 0.1', 'initial beta 1', 'LR of beta x 0.1')
        return {name: changed[name] for name in shown}
    amsgrad = {'AMSGrad L2': (1e-2, 1e-4, 1e-6)}  # supplementary table 2
    strong = {'Leaky ReLU, 0.01, L2 1e-3': training(scale, 'Adam L2', 1e-3) | _leaky(0.01)}
    return by_decay(scale, TABLE_2 | amsgrad) | changed | strong


EXPERIMENT = Experiment(
    claim='Adam prunes less from early to middle layers and more in late ones, SGD most in early '
    'ones. Of the 47 % with Adam and L2 1e-4 AMSGrad leaves 13, Leaky ReLU 41 to 43; the rate of '
    'gamma divided by 10 is much more effective, 33; an initial beta of -0.1 changes nothing, 1 '
    'makes it 53, the rate of beta divided by 10 51.',
    **on_cifar(100, _arms),
    **BY_LAYER,
)
