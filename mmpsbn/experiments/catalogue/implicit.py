"""Implicit filter sparsity (Mehta et al., CVPR 2019): BasicNet on CIFAR-10 and CIFAR-100."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..experiment import Experiment, Options, sweep
from ..pictures import against, over_columns, over_steps
from ..scales import KEEP_ALL, PICTURES_100, length
from ..tables import ArmTable, GridTable
from ._shared import by_epoch

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


EXPERIMENTS = {}


def _optimizers(config: str, **decays: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Arms of :func:`by_decay`, table and panels; ``decays``: of each scale."""
    return dict(
        arms=sweep(config, NETS, lambda scale: by_decay(scale, decays[scale])),
        table=GridTable(
            '% inactive by activation / by gamma / test error % at decay',
            '{inactive_share:.0p} / {small_share:.0p} / {error:.1f}',
        ),
        panels=[over_columns('decay lambda', 'small_share'), against('small_share', 'error')],
    )


# decays of both halves
_TABLE_1 = {
    'SGD L2': (2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 0),
    'Adam L2': (1e-2, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6, 0),
    'Adadelta L2': (1e-2, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adagrad L2': (2e-2, 1e-2, 5e-3, 1e-3, 1e-4),
    'SGD WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adam WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
}
_MORE = ('AMSGrad L2', 'Adamax L2', 'RMSprop L2')
_TABLE_S4 = dict.fromkeys(_MORE, (1e-2, 1e-4, 1e-6))
EXPERIMENTS['implicit-optimizers'] = Experiment(
    shows='table 1 of the implicit-sparsity paper: BasicNet, optimizer x L2 or weight decay',
    claim='At like error Adam with L2 leaves more filters inactive (70 %) than with weight decay '
    '(40 %) and than SGD (0 %), and so do Adadelta and Adagrad; without decay next to none are.',
    **_optimizers(
        CONFIG,
        smoke={'SGD L2': (1e-3,), 'Adam L2': (1e-3, 0), 'Adam WD': (1e-3,)},
        small={
            'SGD L2': (2e-3, 1e-3, 1e-4),
            'Adam L2': (1e-3, 1e-4, 0),
            'Adadelta L2': (1e-3,),
            'Adagrad L2': (1e-2,),
            'SGD WD': (1e-3,),
            'Adam WD': (1e-3, 5e-4),
        },
        paper=_TABLE_1,
    ),
)
EXPERIMENTS['implicit-optimizers-more'] = Experiment(
    shows='supplementary table 4 of the implicit-sparsity paper: AMSGrad, Adamax and RMSprop with '
    'L2 on CIFAR-10',
    claim='With L2 1e-4 the adaptive optimizers leave 51, 49 and 72 % of the filters inactive, at '
    '1e-6 none, 4 and 29 %.',
    **_optimizers(
        CONFIG,
        smoke=dict.fromkeys(_MORE, (1e-3,)),
        small=dict.fromkeys(_MORE, (1e-2, 1e-3)),
        paper=_TABLE_S4,
    ),
)
EXPERIMENTS['implicit-cifar100'] = Experiment(
    shows='table 1 and supplementary table 4 of the implicit-sparsity paper on CIFAR-100',
    claim='The harder task leaves fewer filters inactive than CIFAR-10: with Adam and L2 1e-4 47 % '
    'and not 70 %.',
    **_optimizers(
        CONFIG_100,
        smoke={'SGD L2': (1e-3,), 'Adam L2': (1e-3,)},
        small={'SGD L2': (1e-3,), 'Adam L2': (1e-3, 1e-4), 'Adam WD': (1e-3,)},
        paper=_TABLE_1 | _TABLE_S4,
    ),
    data=PICTURES_100,
)


def _batch_sizes(config: str, **sizes: Mapping[float, Sequence[int]]) -> dict[str, Any]:
    """Arms ``'L2 decay, size'`` of Adam, table and panels; ``sizes``: of each scale, by decay."""
    return dict(
        arms=sweep(
            config,
            NETS,
            lambda scale: {
                f'L2 {decay:g}, {size}': training(scale, 'Adam L2', decay, size)
                for decay, values in sizes[scale].items()
                for size in values
            },
        ),
        table=GridTable(
            '% inactive by gamma / test error % / training loss at batch size',
            '{small_share:.0p} / {error:.1f} / {loss:.2f}',
        ),
        panels=[over_columns('batch size', 'small_share'), against('small_share', 'error')],
    )


_TABLE_3 = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}  # the larger ones take longer
EXPERIMENTS['implicit-batch-size'] = Experiment(
    shows='table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size',
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    **_batch_sizes(CONFIG, smoke={1e-3: (80, 20)}, small=_TABLE_3, paper=_TABLE_3),
)
EXPERIMENTS['implicit-cifar100-batch'] = Experiment(
    shows='table 3 of the implicit-sparsity paper on CIFAR-100: BasicNet with Adam and L2, batches',
    claim='At as many iterations larger batches leave fewer filters inactive: 57 % at 20 and 29 % '
    'at 160 with L2 1e-4.',
    **_batch_sizes(CONFIG_100, smoke={1e-3: (80,)}, small={1e-3: (80, 20)}, paper=_TABLE_3),
    data=PICTURES_100,
)


def _widths(config: str) -> dict[str, Any]:
    """Arms of Adam with L2 1e-4, at ``small`` 1e-3, for each width of BasicNet; table and panel."""
    nets = dict(smoke=('32-0.25x',), small=('64-0.5x', '32-0.25x'), paper=tuple(_LAST))
    decays = dict(smoke=1e-3, small=1e-3, paper=1e-4)
    return dict(
        arms=sweep(
            config,
            {scale: training(scale, 'Adam L2', decay) for scale, decay in decays.items()},
            lambda scale: {f'BasicNet, {width}': basic_net(width) for width in nets[scale]},
        ),
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


EXPERIMENTS['implicit-widths'] = Experiment(
    shows='table 6 of the implicit-sparsity paper, CIFAR-10: BasicNet of three widths',
    claim='The narrower the net, the fewer filters are inactive with Adam and L2 1e-4: 70, 51 and '
    '23 %.',
    **_widths(CONFIG),
)
EXPERIMENTS['implicit-cifar100-widths'] = Experiment(
    shows='table 6 of the implicit-sparsity paper, CIFAR-100: BasicNet of three widths',
    claim='The narrower the net, the fewer filters are inactive with Adam and L2 1e-4: 46, 10 and '
    '0 %.',
    **_widths(CONFIG_100),
    data=PICTURES_100,
)

_WEAK_AND_STRONG = {'Adam L2': (1e-5, 1e-4), 'SGD L2': (5e-4, 1e-3)}  # of SGD the strong is ours
_PATH_DECAYS = dict(
    smoke={'Adam L2': (1e-5,), 'SGD L2': (5e-4,)}, small=_WEAK_AND_STRONG, paper=_WEAK_AND_STRONG
)
EXPERIMENTS['implicit-paths'] = Experiment(
    shows='figure 2 and supplementary figure 1 of the implicit-sparsity paper: gamma and beta of '
    'C6 and C5 over the epochs on CIFAR-100, as percentiles over their channels',
    claim='Gamma is positive with both optimizers; beta is negative with Adam, of both signs with '
    'SGD, so that Adam learns more selective features, which the stronger L2 prunes.',
    arms=sweep(
        CONFIG_100,
        NETS,
        lambda scale: {n: of | KEEP_ALL for n, of in by_decay(scale, _PATH_DECAYS[scale]).items()},
    ),
    **by_epoch('optimizer, decay', 'gamma_path', 'beta_path', 'gamma_path_c5', 'beta_path_c5'),
    data=PICTURES_100,
)

_BY_UNIVERSALITY = dict(
    table=ArmTable(
        'mean universality / % inactive of layer',
        {'inactive, %': '{inactive_share:.0p}', 'test error, %': '{error:.1f}'},
        step='{universality_by_layer:.2f} / {inactive_by_layer:.0p}',
        step_head='C{}',
    ),
    panels=[over_steps('convolution', f'{of}_by_layer') for of in ('universality', 'inactive')],
)


def _universality_arms(scale: str) -> dict[str, Options]:
    decay = 1e-3 if scale == 'small' else 1e-4
    sizes = dict(smoke=(80,), small=(40,), paper=(160, 80, 40, 20))[scale]
    arms = {f'Adam, batch {n}': training(scale, 'Adam L2', decay, n) for n in sizes}
    return arms | {'SGD, batch 40': training(scale, 'SGD L2', 5e-4)}


def _universality_100_arms(scale: str) -> dict[str, Options]:
    decays = dict(
        smoke={'SGD L2': (1e-3,)},
        small={'Adam L2': (1e-5, 1e-3), 'SGD L2': (5e-4, 1e-3)},
        paper=_WEAK_AND_STRONG,
    )[scale]
    # of figure 5; 40 is among the decays
    sizes = dict(smoke=(80,), small=(), paper=(160,))[scale]
    arms = {f'Adam L2, batch {n}': training(scale, 'Adam L2', 1e-4, n) for n in sizes}
    return by_decay(scale, decays) | arms


EXPERIMENTS['implicit-universality'] = Experiment(
    shows='supplementary figure 2 of the implicit-sparsity paper, CIFAR-10, with one decay for '
    'each optimizer, and the CIFAR-10 part of figure 5: mean universality by layer, Adam and SGD, '
    'and by batch size (the figures have its distribution)',
    claim='In later layers Adam learns less universal, more selective features than SGD; the '
    'larger the batch, the more selective ones are left.',
    arms=sweep(CONFIG, NETS, _universality_arms),
    **_BY_UNIVERSALITY,
)
EXPERIMENTS['implicit-cifar100-universality'] = Experiment(
    shows='figure 3 of the implicit-sparsity paper and the CIFAR-100 part of figure 5: mean '
    'universality by layer, Adam and SGD with a weak and a strong decay, and by batch size (the '
    'figures have its distribution)',
    claim='In later layers Adam learns less universal features than SGD; the stronger L2 '
    'inactivates 64 % of those of C6 with Adam and leaves them mostly as they are with SGD.',
    arms=sweep(CONFIG_100, NETS, _universality_100_arms),
    **_BY_UNIVERSALITY,
    data=PICTURES_100,
)
