"""Layer-wise pruning in the implicit-sparsity paper (Mehta et al., CVPR 2019)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .experiment import Arm, Experiment
from .implicit import LIMITS, TRAININGS, sparsity_of
from .measure import TrainedArm
from .pictures import Panel
from .tables import Numbers, Table, arm_table
from .verdicts import Finding, tell

_VGG_CONFIG = 'cifar/vgg16_bn_cifar10_in_memory.py'


def _read_pruned(work_dir: Path) -> dict[str, Any]:
    """Besides :func:`.implicit.sparsity_of`: the share of the convolutions' weights that go with
    the filters of |gamma| < 1e-3, and the test error when they have gone."""
    arm = TrainedArm(work_dir)
    numbers = sparsity_of(arm)
    weights = arm.remove_collapsed(LIMITS.gamma)
    return numbers | dict(weights_removed=weights, error_after=100 - arm.top1())


# tables 2 (its half for CIFAR-10, table 1 of the supplement) and 7
_PRUNED = dict(
    smoke=(('Adam', 'L2', 1e-3), ('SGD', 'L2', 1e-3)),
    small=(
        ('Adam', 'L2', 1e-3),
        ('Adam', 'L2', 1e-4),
        ('Adam', 'WD', 1e-3),
        ('SGD', 'L2', 2e-3),
    ),
    paper=(
        *(('Adam', 'L2', decay) for decay in (1e-3, 1e-4)),
        *(('Adam', 'WD', decay) for decay in (2e-4, 1e-4)),
        *(('SGD', 'L2', decay) for decay in (1e-3, 5e-4)),
        *(('SGD', 'WD', decay) for decay in (1e-3, 5e-4)),
    ),
)


def _pruned_arms(scale: str) -> Sequence[Arm]:
    training = TRAININGS[scale]
    if scale == 'small':
        training = replace(training, width='64-0.5x')
    arms = [training.basic_net(f'{o} {k} {d:g}', o, k, d) for o, k, d in _PRUNED[scale]]
    if scale == 'paper':
        arms += [
            Arm(f'VGG-16, batch {size}', _VGG_CONFIG, training.options('Adam', 'L2', 1e-4, size))
            for size in (40, 80, 160)
        ]
    return arms


def _tabulate_pruned(numbers: Numbers) -> Table:
    layers = max(len(arm['by_layer']) for arm in numbers.values())
    columns = {
        f'C{at + 1}': lambda arm, at=at: (
            f'{100 * arm["by_layer"][at]:.0f}' if at < len(arm['by_layer']) else ''
        )
        for at in range(layers)
    }
    columns |= {
        'all': lambda arm: f'{100 * arm["collapsed"]:.0f}',
        'weights': lambda arm: f'{100 * arm["weights_removed"]:.0f}',
        'test error, %': lambda arm: f'{arm["error"]:.2f}',
        'after': lambda arm: f'{arm["error_after"]:.2f}',
    }
    return arm_table('% filters removed of', numbers, columns)


def _judge_pruned(numbers: Numbers) -> list[Finding]:
    most = max(numbers, key=lambda name: numbers[name]['weights_removed'])
    weights = numbers[most]['weights_removed']
    changes = {name: arm['error_after'] - arm['error'] for name, arm in numbers.items()}
    worst = max(changes, key=lambda name: abs(changes[name]))
    return [
        tell(
            'these filters can go for half a point',
            f'{weights:.0%} of the weights with {most}; the error changes most with {worst}, by '
            f'{changes[worst]:+.2f} points',
            None if weights < 0.1 else abs(changes[worst]) <= 0.5,
            numbers,
            [most, worst],
        ),
        tell(
            'they are nearly all of the weights of the convolutions',
            f'{weights:.0%} with {most}, 97 % in the paper',
            weights >= 0.9,
            numbers,
            [most],
        ),
    ]


IMPLICIT_PRUNE = Experiment(
    name='implicit-prune',
    shows='tables 2 and 7 of the implicit-sparsity paper: by layer, and error before and after '
    'the filters are removed for real',
    claim='Removing the filters with |gamma| < 1e-3, up to 97 % of the weights of the '
    'convolutions, changes the error by less than half a point.',
    arms=_pruned_arms,
    read=_read_pruned,
    tabulate=_tabulate_pruned,
    panels=lambda numbers: [
        Panel(
            'convolution',
            'filters removed, %',
            {
                name: [(at, 100 * share) for at, share in enumerate(arm['by_layer'], 1)]
                for name, arm in numbers.items()
            },
            'count',
        )
    ],
    judge=_judge_pruned,
)
