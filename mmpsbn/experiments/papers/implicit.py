"""The experiments of the implicit-sparsity paper (Mehta et al., CVPR 2019), their halves for
CIFAR-10."""

from pathlib import Path
from typing import Any

from ...pruning.measures import Limits, count_channels
from ..experiment import Arm, Experiment, Options, arms_by_scale
from ..measure import TrainedArm
from ..measured import Measured, Numbers, Quantity, grid
from ..pictures import against, over_columns, over_steps
from ..scales import length
from ..tables import ArmTable, GridTable
from ..verdicts import SHARE, Verdict, falls, judge, tell

_CONFIG = 'cifar/basicnet_bn_cifar10_in_memory.py'
_LIMITS = Limits(gamma=1e-3, eps=1e-12)  # the paper's, section 2.1
_OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9),
    'Adam': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
    'Adadelta': dict(type='Adadelta', lr=1.0, rho=0.9, eps=1e-6),
    'Adagrad': dict(type='Adagrad', lr=1e-2),
}


def _basic_net(width: str, channels: int) -> Options:
    """``channels``: of its last convolution."""
    return {'model.backbone.width': width, 'model.head.in_channels': channels}


# 250 epochs and 75 at a tenth of the rate with batches of 40, or as many iterations. small: a
# quarter of the width, a fifth of the images and 36 epochs: 9,000 steps, the paper has 406,250.
# SGD's L2 of lambda and any WD of lambda shrink a dead gamma by lambda a step, a tenth of it in
# the last quarter, so S = 7,200 lambda: 7.2 at 1e-3. Adam's L2 takes a dead gamma down by the
# learning rate a step, 1e-3, whatever lambda is, and has time enough.
_EPOCHS = dict(smoke=1, small=36, paper=325)
_NETS = dict(
    smoke=_basic_net('32-0.25x', 128),
    small=_basic_net('32-0.25x', 128),
    paper=_basic_net('64-1x', 512),
)


def _training(scale: str, optimizer: str, decay: float, batch_size: int = 40) -> Options:
    """``optimizer``: and ``'L2'``, decay in the gradient, or ``'WD'``, decoupled."""
    epochs = _EPOCHS[scale] * batch_size / 40
    name, kind = optimizer.split()
    settings = dict(_OPTIMIZERS[name], weight_decay=decay)
    if kind == 'WD':
        settings['type'] = f'Decoupled{name}'
    whole = length(max(1, round(epochs)), batch_size=batch_size, bfloat16=scale == 'small')
    return whole | {
        'optim_wrapper.optimizer': dict(_delete_=True, **settings),
        'param_scheduler.milestones': [max(1, round(epochs * 250 / 325))],
    }


def _read(work_dir: Path) -> dict[str, Any]:
    return _inactive_filters(TrainedArm(work_dir))


def _inactive_filters(arm: TrainedArm) -> dict[str, Any]:
    """Shares of convolution filters that are inactive by gamma and by their activations over the
    training images, test error in %, training loss."""
    filters = {n: layer for n, layer in arm.census().items() if n.startswith('backbone.')}
    collapsed = count_channels(filters, 'collapsed', _LIMITS)
    return dict(
        collapsed=collapsed.share,
        dead=count_channels(filters, 'dead', _LIMITS).share,
        by_layer=[count / size for count, size in collapsed.by_layer.values()],
        error=100 - arm.top1(),
        loss=arm.train_loss(),
        classes=arm.classes,
    )


_COLLAPSED = Quantity('filters with |gamma| < 1e-3, %', lambda arm: arm.collapsed, '.0%', SHARE)
_ERROR = Quantity('test error, %', lambda arm: arm.error, '.1f %')

# in points: best errors further apart are not alike; an arm this near to the best of its row counts
_LIKE, _NEAR = 5.0, 2.0
_DECAYS = dict(
    smoke={'SGD L2': (1e-3,), 'Adam L2': (1e-3, 0), 'Adam WD': (1e-3,)},
    small={
        'SGD L2': (2e-3, 1e-3, 1e-4),
        'Adam L2': (1e-3, 1e-4, 0),
        'Adadelta L2': (1e-3,),
        'Adagrad L2': (1e-2,),
        'SGD WD': (1e-3,),
        'Adam WD': (1e-3, 5e-4),
    },
    paper={
        'SGD L2': (2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 0),
        'Adam L2': (1e-2, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6, 0),
        'Adadelta L2': (1e-2, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4),
        'Adagrad L2': (2e-2, 1e-2, 5e-3, 1e-3, 1e-4),
        'SGD WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
        'Adam WD': (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
    },
)


def _optimizer_claims(numbers: Numbers) -> dict[str, Verdict]:
    rows = grid(numbers)
    best = {row: min(arm.error for arm in arms.values()) for row, arms in rows.items()}

    def sparsest(row: str) -> Measured:
        near = (arm for arm in rows[row].values() if arm.error <= best[row] + _NEAR)
        return max(near, key=lambda arm: arm.dead)

    def compare(row: str, other: str, words: str = '') -> Verdict:
        arms = sparsest(row), sparsest(other)
        holds = falls([arm.dead for arm in arms], SHARE)
        found = ' and '.join(f'{arm.dead:.0%} with {arm.name}' for arm in arms)
        return tell(found + words, holds if abs(best[row] - best[other]) <= _LIKE else None, *arms)

    near = f', by activation, the most at an error within {_NEAR} points of the best of its row'
    free = numbers['Adam L2, 0']
    return {
        'Adam leaves more filters inactive than SGD': compare('Adam L2', 'SGD L2', near),
        **{
            f'so does {row.removesuffix(" L2")}': compare(row, 'SGD L2')
            for row in ('Adadelta L2', 'Adagrad L2')
            if row in rows
        },
        'L2 leaves more than weight decay with Adam': compare('Adam L2', 'Adam WD'),
        'without decay next to none are': tell(
            f'{free.dead:.0%} with Adam', free.dead < 2 * SHARE, free
        ),
    }


IMPLICIT_OPTIMIZERS = Experiment(
    name='implicit-optimizers',
    shows='table 1 of the implicit-sparsity paper: BasicNet, optimizer x L2 or weight decay',
    claim='At like error Adam with L2 leaves more filters inactive (70 %) than with weight decay '
    '(40 %) and than SGD (0 %), and so do Adadelta and Adagrad; without decay next to none are.',
    arms=arms_by_scale(
        _CONFIG,
        _NETS,
        lambda scale: {
            f'{optimizer}, {decay:g}': _training(scale, optimizer, decay)
            for optimizer, decays in _DECAYS[scale].items()
            for decay in decays
        },
    ),
    read=_read,
    table=GridTable(
        '% inactive by activation / by gamma / test error % at decay',
        '{dead:.0p} / {collapsed:.0p} / {error:.1f}',
    ),
    panels=[over_columns('decay lambda', _COLLAPSED), against(_COLLAPSED, _ERROR)],
    claims=_optimizer_claims,
)

# table 3; the larger batches take longer and come first
_WHOLE = {1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)}
_BATCH_SIZES = dict(smoke={1e-3: (80, 20)}, small=_WHOLE, paper=_WHOLE)


def _batch_size_claims(numbers: Numbers) -> dict[str, Verdict]:
    verdicts = {}
    for row, arms in grid(numbers).items():
        small, large = min(arms, key=int), max(arms, key=int)
        found = f'{{0}} at {small}, {{1}} at {large}'
        verdicts[f'larger batches leave fewer filters inactive with {row}'] = judge(
            falls, _COLLAPSED, arms[small], arms[large], found=found
        )
    return verdicts


IMPLICIT_BATCH_SIZE = Experiment(
    name='implicit-batch-size',
    shows='table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size',
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    arms=arms_by_scale(
        _CONFIG,
        _NETS,
        lambda scale: {
            f'L2 {decay:g}, {size}': _training(scale, 'Adam L2', decay, size)
            for decay, sizes in _BATCH_SIZES[scale].items()
            for size in sizes
        },
    ),
    read=_read,
    table=GridTable(
        '% inactive by gamma / test error % / training loss at batch size',
        '{collapsed:.0p} / {error:.1f} / {loss:.2f}',
    ),
    panels=[over_columns('batch size', _COLLAPSED), against(_COLLAPSED, _ERROR)],
    claims=_batch_size_claims,
)

_PRUNED = dict(
    smoke={'Adam L2': (1e-3,), 'SGD L2': (1e-3,)},
    small={'Adam L2': (1e-3, 1e-4), 'Adam WD': (1e-3,), 'SGD L2': (2e-3,)},
    paper={
        'Adam L2': (1e-3, 1e-4),
        'Adam WD': (2e-4, 1e-4),
        'SGD L2': (1e-3, 5e-4),
        'SGD WD': (1e-3, 5e-4),
    },
)
_PRUNED_ARMS = arms_by_scale(
    _CONFIG,
    _NETS | dict(small=_basic_net('64-0.5x', 256)),
    lambda scale: {
        f'{optimizer} {decay:g}': _training(scale, optimizer, decay)
        for optimizer, decays in _PRUNED[scale].items()
        for decay in decays
    },
)
_VGG_CONFIG = 'cifar/vgg16_bn_cifar10_in_memory.py'
_PRUNED_ARMS['paper'] += [
    Arm(f'VGG-16, batch {size}', _VGG_CONFIG, _training('paper', 'Adam L2', 1e-4, size))
    for size in (40, 80, 160)
]


def _read_pruned(work_dir: Path) -> dict[str, Any]:
    """Besides :func:`_inactive_filters`: the share of the convolutions' weights that go with the
    filters of |gamma| < 1e-3, and the test error when they have gone."""
    arm = TrainedArm(work_dir)
    numbers = _inactive_filters(arm)
    weights = arm.remove_collapsed(_LIMITS.gamma)
    return numbers | dict(weights_removed=weights, error_after=100 - arm.top1())


def _pruned_claims(numbers: Numbers) -> dict[str, Verdict]:
    most = max(numbers.values(), key=lambda arm: arm.weights_removed)
    worst = max(numbers.values(), key=lambda arm: abs(arm.error_after - arm.error))
    change = worst.error_after - worst.error
    return {
        'these filters can go for half a point': tell(
            f'{most.weights_removed:.0%} of the weights with {most.name}; the error changes most '
            f'with {worst.name}, by {change:+.2f} points',
            None if most.weights_removed < 0.1 else abs(change) <= 0.5,
            most,
            worst,
        ),
        'they are nearly all of the weights of the convolutions': tell(
            f'{most.weights_removed:.0%} with {most.name}, 97 % in the paper',
            most.weights_removed >= 0.9,
            most,
        ),
    }


_REMOVED = Quantity('filters removed, %', lambda layer: layer.by_layer, '.0%')
IMPLICIT_PRUNE = Experiment(
    name='implicit-prune',
    shows='tables 2 and 7 of the implicit-sparsity paper: by layer, and error before and after '
    'the filters are removed for real',
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_PRUNED_ARMS,
    read=_read_pruned,
    table=ArmTable(
        '% filters removed of',
        {
            'all': '{collapsed:.0p}',
            'weights': '{weights_removed:.0p}',
            'test error, %': '{error:.2f}',
            'after': '{error_after:.2f}',
        },
        step='{by_layer:.0p}',
        step_head='C{}',
    ),
    panels=[over_steps('convolution', _REMOVED)],
    claims=_pruned_claims,
)
