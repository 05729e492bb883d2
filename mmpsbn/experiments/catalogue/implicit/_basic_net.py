"""BasicNet on CIFAR-10 and CIFAR-100: its trainings, and the tables that the paper has of both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...experiment import Options, sweep
from ...pictures import against, over_columns, over_steps
from ...scales import PICTURES, PICTURES_100, length
from ...tables import ArmTable, GridTable

_OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9),
    'Adam': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
    'Adadelta': dict(type='Adadelta', lr=1.0, rho=0.9, eps=1e-6),
    'Adagrad': dict(type='Adagrad', lr=1e-2),
    'AMSGrad': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8, amsgrad=True),
    'Adamax': dict(type='Adamax', lr=2e-3, betas=(0.9, 0.99), eps=1e-8),
    'RMSprop': dict(type='RMSprop', lr=1e-3, eps=1e-8),
}
CONFIGS = {n: f'cifar/basicnet_bn_cifar{n}_in_memory.py' for n in (10, 100)}
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


def on_cifar(classes: int, changes: Callable[[str], Mapping[str, Options]]) -> dict[str, Any]:
    """Arms of the net of a scale on CIFAR-10 or CIFAR-100, and the data; ``changes``: scale -> name
    -> options."""
    return dict(
        arms=lambda scale: sweep(CONFIGS[classes], NETS[scale], changes(scale)),
        data={10: PICTURES, 100: PICTURES_100}[classes],
    )


# of SGD the strong one is ours
WEAK_AND_STRONG = {'Adam L2': (1e-5, 1e-4), 'SGD L2': (5e-4, 1e-3)}
# decays of both halves
TABLE_1 = {
    'SGD L2': (2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 0),
    'Adam L2': (1e-2, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6, 0),
    'Adadelta L2': (1e-2, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adagrad L2': (2e-2, 1e-2, 5e-3, 1e-3, 1e-4),
    'SGD WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
    'Adam WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
}
TABLE_S4 = dict.fromkeys(('AMSGrad L2', 'Adamax L2', 'RMSprop L2'), (1e-2, 1e-4, 1e-6))
TABLE_3 = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}  # the larger ones take longer


def optimizers(classes: int, **decays: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Arms of :func:`by_decay`, data, table and panels; ``decays``: of each scale."""
    return dict(
        **on_cifar(classes, lambda scale: by_decay(scale, decays[scale])),
        table=GridTable(
            '% inactive by activation / by gamma / test error % at decay',
            '{inactive_share:.0p} / {small_share:.0p} / {error:.1f}',
        ),
        panels=over_columns('decay lambda', 'small_share') + against('small_share', 'error'),
    )


def batch_sizes(classes: int, **sizes: Mapping[float, Sequence[int]]) -> dict[str, Any]:
    """Arms ``'L2 decay, size'`` of Adam, data, table and panels; ``sizes``: of each scale, by
    decay."""
    return dict(
        **on_cifar(
            classes,
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
        panels=over_columns('batch size', 'small_share') + against('small_share', 'error'),
    )


def widths(classes: int) -> dict[str, Any]:
    """Arms of Adam with L2 1e-4, at ``small`` 1e-3, for each width of BasicNet, data, table and
    panel."""
    nets = dict(smoke=('32-0.25x',), small=('64-0.5x', '32-0.25x'), paper=tuple(_LAST))
    decays = dict(smoke=1e-3, small=1e-3, paper=1e-4)
    return dict(
        **on_cifar(
            classes,
            lambda scale: {
                f'BasicNet, {width}': training(scale, 'Adam L2', decays[scale]) | basic_net(width)
                for width in nets[scale]
            },
        ),
        table=ArmTable(
            'width',
            {
                'training loss': '{loss:.2f}',
                'test error, %': '{error:.1f}',
                'inactive by gamma, %': '{small_share:.0p}',
            },
        ),
        panels=against('small_share', 'error'),
    )


BY_UNIVERSALITY = dict(
    table=ArmTable(
        'mean universality / % inactive of layer',
        {'inactive, %': '{inactive_share:.0p}', 'test error, %': '{error:.1f}'},
        step='{universality_by_layer:.2f} / {inactive_by_layer:.0p}',
        step_head='C{}',
    ),
    panels=over_steps('convolution', 'universality_by_layer', 'inactive_by_layer'),
)
