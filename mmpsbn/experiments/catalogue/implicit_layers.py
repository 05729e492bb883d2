"""Implicit filter sparsity by layer, and filters that are pruned: BasicNet, VGG and explicit ways
(Mehta et al., CVPR 2019)."""

from collections.abc import Mapping, Sequence

from ..experiment import Arm, Experiment, Options, sweep
from ..pictures import over_steps
from ..scales import PICTURES_100, length
from ..tables import ArmTable
from ._shared import FEW, NOTHING_GOES, cut_once
from .implicit import CONFIG, CONFIG_100, NETS, basic_net, by_decay, training

_VGG = 'cifar/vgg16_bn_cifar10_in_memory.py'
# tables 7 and 10: depth -> batch sizes
_VGG_SIZES = {16: (40, 80, 160), 19: (64, 512)}
# Network Slimming's, "identical" in section 5: one linear layer
_SLIMMING_HEAD = dict(_delete_=True, type='LinearClsHead', in_channels=512)


def _vgg(scale: str, depth: int, batch_size: int, classes: int) -> Options:
    """Adam with L2 1e-4."""
    head = {'model.head.num_classes': classes}
    if depth == 19:
        head = {'model.head': dict(_SLIMMING_HEAD, num_classes=classes)}
    return training(scale, 'Adam L2', 1e-4, batch_size) | {'model.backbone.depth': depth} | head


# Tables 7 and 10, explicit ways: what they are trained with, what they choose by and what they
# leave of the MACs. Li et al. have left 66 % in their paper (1608.08710), which chooses layers by
# hand; that of Network Slimming (1708.06519) is ours, its penalty is not.
_LASSO = dict(
    type='DemPHook',
    penalty=dict(peak=1e-4),
    noise=dict(peak_std=0.0),
    schedule=dict(type='constant'),
)
_EXPLICIT = {'Li et al.': ([], 'l1', 0.66), 'Network Slimming': ([_LASSO], 'bn_scale', 0.5)}
# Finetuned for 40 epochs at a rate of 1e-3, as Li et al.
_FINETUNED = dict(smoke=(1, 8, 13), paper=(40, 64, 31_280))  # epochs, batch size, iterations
_NOTHING_GOES = dict(
    smoke=dict(NOTHING_GOES, interval=1), paper=dict(NOTHING_GOES, interval=100_000)
)


def _vggs(scale: str, sizes: Mapping[int, Sequence[int]], classes: int, **few: int) -> list[Arm]:
    """Of depth -> batch sizes; ``few``: further options."""
    return [
        Arm(f'VGG-{depth}, batch {size}', _VGG, _vgg(scale, depth, size, classes) | few)
        for depth, values in sizes.items()
        for size in values
    ]


def _explicit(scale: str, column: str, depth: int, classes: int, **few: int) -> list[Arm]:
    """Training and finetuning by one of the explicit ways; ``few``: further options."""
    hooks, score, left = _EXPLICIT[column]
    epochs, batch_size, iterations = _FINETUNED[scale]
    net = _vgg(scale, depth, 64, classes) | training(scale, 'SGD L2', 1e-4, 64) | few
    first = [dict(hook, prune=_NOTHING_GOES[scale]) for hook in hooks]
    then = length(epochs, batch_size=batch_size) | {
        'optim_wrapper.optimizer.lr': 1e-3,
        'param_scheduler.milestones': [epochs],
        'custom_hooks': [cut_once(score, left, iterations)],
    }
    name = f'{column}, VGG-{depth}'
    return [
        Arm(f'{name}, trained', _VGG, net | {'custom_hooks': first}),
        Arm(name, _VGG, net | then, pretrained=f'{name}, trained', whole=True),
    ]


_BY_LAYER = dict(
    table=ArmTable(
        '% filters removed of',
        {
            'all': '{small_share:.0p}',
            'weights': '{weights_removed:.0p}',
            'test error, %': '{error:.2f}',
            'after': '{error_after:.2f}',
        },
        step='{small_by_layer:.0p}',
        step_head='C{}',
    ),
    panels=[over_steps('convolution', 'small_by_layer')],
)
EXPERIMENTS = {}

_TABLE_2 = {
    'Adam L2': (1e-3, 1e-4),
    'Adam WD': (2e-4, 1e-4),
    'SGD L2': (1e-3, 5e-4),
    'SGD WD': (1e-3, 5e-4),
}
_PRUNED = dict(
    smoke={'Adam L2': (1e-3,), 'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-3, 1e-4), 'Adam WD': (1e-3,), 'SGD L2': (2e-3,)},
    paper=_TABLE_2,
)
_PRUNE_ARMS = sweep(
    CONFIG,
    NETS | dict(small=basic_net('64-0.5x')),
    lambda scale: by_decay(scale, _PRUNED[scale]),
)
_PRUNE_ARMS['paper'] += _vggs('paper', _VGG_SIZES, 10)
_PRUNE_ARMS['paper'] += _explicit('paper', 'Li et al.', 16, 10)
_PRUNE_ARMS['paper'] += _explicit('paper', 'Network Slimming', 19, 10)
EXPERIMENTS['implicit-prune'] = Experiment(
    shows='supplementary table 1 of the implicit-sparsity paper, CIFAR-10: BasicNet by layer, and '
    'error before and after the filters are removed for real; at paper also the VGGs of the '
    'CIFAR-10 halves of tables 7 and 10, and Li et al. and Network Slimming',
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_PRUNE_ARMS,
    **_BY_LAYER,
)

_FEW = dict.fromkeys(FEW, 100)
EXPERIMENTS['implicit-vgg'] = Experiment(
    shows='tables 7 and 10 of the implicit-sparsity paper on CIFAR-100: VGG-16 and VGG-19 by '
    'layer, and Network Slimming',
    claim='Adam with L2 1e-4 prunes most of the late layers; larger batches and the harder task '
    'leave fewer filters inactive. Network Slimming prunes 50 % of VGG-19 at a test error of 26.7.',
    arms=dict(
        smoke=[
            *_vggs('smoke', {11: (40,)}, 100, **_FEW),
            *_explicit('smoke', 'Li et al.', 11, 100, **_FEW),  # of CIFAR-10 alone in the paper
            *_explicit('smoke', 'Network Slimming', 11, 100, **_FEW),
        ],
        small=_vggs('small', {16: (160,)}, 100),
        paper=[
            *_vggs('paper', _VGG_SIZES, 100),
            *_explicit('paper', 'Network Slimming', 19, 100),
        ],
    ),
    **_BY_LAYER,
    data=PICTURES_100,
)

_LR = 'optim_wrapper.paramwise_cfg'
_XAVIER = dict(type='Xavier', layer='Conv2d', gain=2**0.5)


def _leaky(slope: float) -> Options:
    return {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=slope, inplace=True)}


def _beta(beta: float) -> Options:
    return {'model.backbone.init_cfg': [_XAVIER, dict(type='NormAffine', beta=beta)]}


# of Adam with L2 1e-4: supplementary tables 2 and 3
_CHANGES = {
    'Leaky ReLU, 0.01': _leaky(0.01),
    'Leaky ReLU, 0.1': _leaky(0.1),
    'initial beta -0.1': _beta(-0.1),
    'initial beta 1': _beta(1.0),
    'LR of gamma x 0.1': {_LR: dict(custom_keys={'bn.weight': dict(lr_mult=0.1)})},
    'LR of beta x 0.1': {_LR: dict(custom_keys={'bn.bias': dict(lr_mult=0.1)})},
}


def _layers_arms(scale: str) -> dict[str, Options]:
    if scale == 'small':
        return by_decay(scale, {'Adam L2': (1e-3,), 'SGD L2': (1e-3,), 'Adam WD': (1e-3,)})
    adam = training(scale, 'Adam L2', 1e-4)
    changed = {name: adam | change for name, change in _CHANGES.items()}
    if scale == 'smoke':
        shown = ('Leaky ReLU, 0.1', 'initial beta 1', 'LR of beta x 0.1')
        return {name: changed[name] for name in shown}
    amsgrad = {'AMSGrad L2': (1e-2, 1e-4, 1e-6)}  # supplementary table 2
    strong = {'Leaky ReLU, 0.01, L2 1e-3': training(scale, 'Adam L2', 1e-3) | _leaky(0.01)}
    return by_decay(scale, _TABLE_2 | amsgrad) | changed | strong


EXPERIMENTS['implicit-cifar100-layers'] = Experiment(
    shows='table 2 and supplementary tables 2 and 3 of the implicit-sparsity paper: CIFAR-100, '
    'filters pruned by layer; AMSGrad, Leaky ReLU, initial beta, rates of gamma and beta',
    claim='Adam prunes less from early to middle layers and more in late ones, SGD most in early '
    'ones. Of the 47 % with Adam and L2 1e-4 AMSGrad leaves 13, Leaky ReLU 41 to 43; the rate of '
    'gamma divided by 10 is much more effective, 33; an initial beta of -0.1 changes nothing, 1 '
    'makes it 53, the rate of beta divided by 10 51.',
    arms=sweep(CONFIG_100, NETS, _layers_arms),
    **_BY_LAYER,
    data=PICTURES_100,
)
