from ..experiment import Experiment, Options, sweep
from ..scales import PICTURES_100
from ._implicit import BY_LAYER, CONFIG_100, NETS, XAVIER, by_decay, training

_LR = 'optim_wrapper.paramwise_cfg'


def _leaky(slope: float) -> Options:
    return {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=slope, inplace=True)}


def _beta(beta: float) -> Options:
    return {'model.backbone.init_cfg': [XAVIER, dict(type='NormAffine', beta=beta)]}


# table 2; supplementary table 2, AMSGrad
_TABLE = {
    'Adam L2': (1e-3, 1e-4),
    'Adam WD': (2e-4, 1e-4),
    'SGD L2': (1e-3, 5e-4),
    'SGD WD': (1e-3, 5e-4),
    'AMSGrad L2': (1e-2, 1e-4, 1e-6),
}
_SMALL = {'Adam L2': (1e-3,), 'SGD L2': (1e-3,), 'Adam WD': (1e-3,)}


def _changes() -> dict[str, Options]:
    """Of Adam with L2 1e-4: supplementary tables 2 and 3."""
    return {
        'Leaky ReLU, 0.01': _leaky(0.01),
        'Leaky ReLU, 0.1': _leaky(0.1),
        'initial beta -0.1': _beta(-0.1),
        'initial beta 1': _beta(1.0),
        'LR of gamma x 0.1': {_LR: dict(custom_keys={'bn.weight': dict(lr_mult=0.1)})},
        'LR of beta x 0.1': {_LR: dict(custom_keys={'bn.bias': dict(lr_mult=0.1)})},
    }


def _arms(scale: str) -> dict[str, Options]:
    table = dict(smoke={}, small=_SMALL, paper=_TABLE)[scale]
    arms = by_decay(scale, table)
    if scale == 'small':
        return arms
    adam, changes = training(scale, 'Adam L2', 1e-4), _changes()
    if scale == 'smoke':
        shown = ('Leaky ReLU, 0.1', 'initial beta 1', 'LR of beta x 0.1')
        return {name: adam | changes[name] for name in shown}
    strong = training(scale, 'Adam L2', 1e-3) | _leaky(0.01)
    return (
        arms
        | {name: adam | change for name, change in changes.items()}
        | {'Leaky ReLU, 0.01, L2 1e-3': strong}
    )


EXPERIMENT = Experiment(
    shows='table 2 and supplementary tables 2 and 3 of the implicit-sparsity paper: CIFAR-100, '
    'filters pruned by layer; AMSGrad, Leaky ReLU, initial beta, rates of gamma and beta',
    claim='Adam prunes less from early to middle layers and more in late ones, SGD most in early '
    'ones. Of the 47 % with Adam and L2 1e-4 AMSGrad leaves 13, Leaky ReLU 41 to 43; the rate of '
    'gamma divided by 10 is much more effective, 33; an initial beta of -0.1 changes nothing, 1 '
    'makes it 53, the rate of beta divided by 10 51.',
    arms=sweep(CONFIG_100, NETS, _arms),
    **BY_LAYER,
    data=PICTURES_100,
)
