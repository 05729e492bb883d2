"""What the experiments of the implicit-sparsity paper (Mehta et al., CVPR 2019) share: BasicNet."""

from collections.abc import Mapping, Sequence

from ..experiment import Arm, Options, sweep
from ..pictures import against, over_columns, over_steps
from ..scales import length
from ..tables import ArmTable, GridTable
from ._cut_once import cut_once

CONFIG = 'cifar/basicnet_bn_cifar10_in_memory.py'
CONFIG_100 = 'cifar/basicnet_bn_cifar100_in_memory.py'
_OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9),
    'Adam': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
    'Adadelta': dict(type='Adadelta', lr=1.0, rho=0.9, eps=1e-6),
    'Adagrad': dict(type='Adagrad', lr=1e-2),
    'AMSGrad': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8, amsgrad=True),
    'Adamax': dict(type='Adamax', lr=2e-3, betas=(0.9, 0.99), eps=1e-8),
    'RMSprop': dict(type='RMSprop', lr=1e-3, eps=1e-8),
}
# decays of both halves
TABLE_1 = {
    'SGD L2': (2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 0),
    'Adam L2': (1e-2, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6, 0),
    'Adadelta L2': (1e-2, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adagrad L2': (2e-2, 1e-2, 5e-3, 1e-3, 1e-4),
    'SGD WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adam WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
}
XAVIER = dict(type='Xavier', layer='Conv2d', gain=2**0.5)
_LAST = {'64-1x': 512, '64-0.5x': 256, '32-0.25x': 128}  # channels of the last convolution


def basic_net(width: str) -> Options:
    return {'model.backbone.width': width, 'model.head.in_channels': _LAST[width]}


# 250 epochs and 75 at a tenth of the rate with batches of 40, or as many iterations. small: a
# quarter of the width, a fifth of the images and 36 epochs: 9,000 steps, the paper has 406,250.
# SGD's L2 of lambda and any WD of lambda shrink a dead gamma by lambda a step, a tenth of it in
# the last quarter, so S = 7,200 lambda: 7.2 at 1e-3. Adam's L2 takes a dead gamma down by the
# learning rate a step, 1e-3, whatever lambda is, and has time enough.
_EPOCHS = dict(smoke=1, small=36, paper=325)
NETS = dict(smoke=basic_net('32-0.25x'), small=basic_net('32-0.25x'), paper=basic_net('64-1x'))


def training(scale: str, optimizer: str, decay: float, batch_size: int = 40) -> Options:
    """``optimizer``: and ``'L2'``, decay in the gradient, or ``'WD'``, decoupled."""
    epochs = _EPOCHS[scale] * batch_size / 40
    name, kind = optimizer.split()
    settings = dict(_OPTIMIZERS[name], weight_decay=decay)
    if kind == 'WD':
        settings['type'] = f'Decoupled{settings["type"]}'
    whole = length(max(1, round(epochs)), batch_size=batch_size, bfloat16=scale == 'small')
    return whole | {
        'optim_wrapper.optimizer': dict(_delete_=True, **settings),
        'param_scheduler.milestones': [max(1, round(epochs * 250 / 325))],
    }


def by_decay(scale: str, decays: Mapping[str, Sequence[float]]) -> dict[str, Options]:
    """Arms ``'optimizer L2, decay'``, from optimizer and kind -> decays."""
    return {
        f'{optimizer}, {decay:g}': training(scale, optimizer, decay)
        for optimizer, values in decays.items()
        for decay in values
    }


def optimizers(config: str, decays: Mapping[str, Mapping[str, Sequence[float]]]) -> dict:
    """:func:`by_decay` of each scale."""
    return sweep(config, NETS, lambda scale: by_decay(scale, decays[scale]))


def batch_sizes(config: str, sizes: Mapping[str, Mapping[float, Sequence[int]]]) -> dict:
    """Arms ``'L2 decay, size'`` of Adam, from scale -> decay -> sizes."""
    return sweep(
        config,
        NETS,
        lambda scale: {
            f'L2 {decay:g}, {size}': training(scale, 'Adam L2', decay, size)
            for decay, values in sizes[scale].items()
            for size in values
        },
    )


def widths(config: str) -> dict:
    """Adam with L2 1e-4, at ``small`` 1e-3, for each width of BasicNet."""
    nets = dict(smoke=('32-0.25x',), small=('64-0.5x', '32-0.25x'), paper=tuple(_LAST))
    return sweep(
        config,
        {scale: training(scale, 'Adam L2', 1e-3 if scale != 'paper' else 1e-4) for scale in nets},
        lambda scale: {f'BasicNet, {width}': basic_net(width) for width in nets[scale]},
    )


VGG = 'cifar/vgg16_bn_cifar10_in_memory.py'
# Network Slimming's, "identical" in section 5: one linear layer
_SLIMMING_HEAD = dict(_delete_=True, type='LinearClsHead', in_channels=512)
# tables 7 and 10
VGG_SIZES = {16: (40, 80, 160), 19: (64, 512)}


def vgg(scale: str, depth: int, batch_size: int, classes: int) -> Options:
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
    smoke=dict(min_channels=10_000, interval=1), paper=dict(min_channels=10_000, interval=100_000)
)


def explicit(scale: str, column: str, depth: int, classes: int, **few: int) -> list[Arm]:
    """Training and finetuning by one of the explicit ways; ``few``: further options."""
    hooks, score, left = _EXPLICIT[column]
    epochs, batch_size, iterations = _FINETUNED[scale]
    net = vgg(scale, depth, 64, classes) | training(scale, 'SGD L2', 1e-4, 64) | few
    first = [dict(hook, prune=_NOTHING_GOES[scale]) for hook in hooks]
    then = length(epochs, batch_size=batch_size) | {
        'optim_wrapper.optimizer.lr': 1e-3,
        'param_scheduler.milestones': [epochs],
        'custom_hooks': [cut_once(score, left, iterations)],
    }
    name = f'{column}, VGG-{depth}'
    return [
        Arm(f'{name}, trained', VGG, net | {'custom_hooks': first}),
        Arm(name, VGG, net | then, pretrained=f'{name}, trained', whole=True),
    ]


BY_DECAY = dict(
    table=GridTable(
        '% inactive by activation / by gamma / test error % at decay',
        '{inactive_share:.0p} / {small_share:.0p} / {error:.1f}',
    ),
    panels=[over_columns('decay lambda', 'small_share'), against('small_share', 'error')],
)
BY_BATCH = dict(
    table=GridTable(
        '% inactive by gamma / test error % / training loss at batch size',
        '{small_share:.0p} / {error:.1f} / {loss:.2f}',
    ),
    panels=[over_columns('batch size', 'small_share'), against('small_share', 'error')],
)
BY_WIDTH = dict(
    table=ArmTable(
        'width',
        {
            'training loss': '{loss:.2f}',
            'test error, %': '{error:.1f}',
            'inactive by gamma, %': '{small_share:.0p}',
        },
    ),
    panels=[against('small_share', 'error')],
)
BY_LAYER = dict(
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
BY_UNIVERSALITY = dict(
    table=ArmTable(
        'mean universality / % inactive of layer',
        {'inactive, %': '{inactive_share:.0p}', 'test error, %': '{error:.1f}'},
        step='{universality_by_layer:.2f} / {inactive_by_layer:.0p}',
        step_head='C{}',
    ),
    panels=[over_steps('convolution', f'{of}_by_layer') for of in ('universality', 'inactive')],
)
