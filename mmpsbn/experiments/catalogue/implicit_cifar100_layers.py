from ..experiment import Experiment, Options, sweep
from ..scales import PICTURES_100
from ._implicit import BY_LAYER, CONFIG_100, NETS, XAVIER, training

_LR = 'optim_wrapper.paramwise_cfg'


def _leaky(slope: float) -> Options:
    return {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=slope, inplace=True)}


def _beta(beta: float) -> Options:
    return {'model.backbone.init_cfg': [XAVIER, dict(type='NormAffine', beta=beta)]}


def _arms(scale: str) -> dict[str, Options]:
    adam = training(scale, 'Adam L2', 1e-4 if scale == 'paper' else 1e-3)
    arms = {
        'Adam L2': adam,
        'SGD L2': training(scale, 'SGD L2', 1e-3),
        'Adam WD': training(scale, 'Adam WD', 1e-4 if scale == 'paper' else 1e-3),
        'SGD WD': training(scale, 'SGD WD', 1e-3),
        'Leaky ReLU, 0.01': adam | _leaky(0.01),
        'Leaky ReLU, 0.1': adam | _leaky(0.1),
        'initial beta -0.1': adam | _beta(-0.1),
        'initial beta 1': adam | _beta(1.0),
        'LR of gamma x 0.1': adam | {_LR: dict(custom_keys={'bn.weight': dict(lr_mult=0.1)})},
        'LR of beta x 0.1': adam | {_LR: dict(custom_keys={'bn.bias': dict(lr_mult=0.1)})},
    }
    shown = dict(smoke=('Leaky ReLU, 0.1', 'initial beta 1', 'LR of beta x 0.1'), paper=arms)
    return {name: arms[name] for name in shown.get(scale, list(arms)[:3])}


EXPERIMENT = Experiment(
    shows='table 2 and supplementary tables 2 and 3 of the implicit-sparsity paper: CIFAR-100, '
    'filters pruned by layer; Leaky ReLU, initial beta, rates of gamma and beta',
    claim='Adam prunes less from early to middle layers and more in late ones, SGD most in early '
    'ones; Leaky ReLU, the initial beta and the rates of gamma and beta change little.',
    arms=sweep(CONFIG_100, NETS, _arms),
    **BY_LAYER,
    data=PICTURES_100,
)
