"""The experiments of the implicit-sparsity paper (Mehta et al., CVPR 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pruning.measures import Limits, count_channels
from .experiment import Arm, Experiment
from .measure import TrainedArm, classes_of
from .pictures import Panel
from .scales import length
from .tables import Numbers, grid, grid_table
from .verdicts import SHARE, Finding, more, tell

_CONFIG = 'cifar/basicnet_bn_cifar10_in_memory.py'
LIMITS = Limits(gamma=1e-3, eps=1e-12)
_OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9),
    'Adam': dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
    'Adadelta': dict(type='Adadelta', lr=1.0, rho=0.9, eps=1e-6),
    'Adagrad': dict(type='Adagrad', lr=1e-2),
}
_WIDTHS = {'32-0.25x': 128, '64-0.5x': 256, '64-1x': 512}  # -> channels of C7


@dataclass(frozen=True)
class Training:
    """250 epochs and 75 at a tenth of the rate with batches of 40, or as many iterations."""

    width: str
    epochs: int
    bfloat16: bool = False

    def options(self, optimizer: str, kind: str, decay: float, batch_size: int = 40) -> dict:
        """Over a config of the paper; ``kind``: ``'L2'`` in the gradient or decoupled ``'WD'``."""
        epochs = self.epochs * batch_size / 40
        settings = dict(_OPTIMIZERS[optimizer], weight_decay=decay)
        if kind == 'WD':
            settings['type'] = f'Decoupled{settings["type"]}'
        whole = length(max(1, round(epochs)), batch_size=batch_size, bfloat16=self.bfloat16)
        return whole | {
            'optim_wrapper.optimizer': dict(_delete_=True, **settings),
            'param_scheduler.milestones': [max(1, round(epochs * 250 / 325))],
        }

    def basic_net(self, name: str, *args: Any) -> Arm:
        net = {'model.backbone.width': self.width, 'model.head.in_channels': _WIDTHS[self.width]}
        return Arm(name, _CONFIG, self.options(*args) | net)


# small: a quarter of the width, a fifth of the images and 36 epochs: 9,000 steps, the paper has
# 406,250. SGD's L2 of lambda and any WD of lambda shrink a dead gamma by lambda a step, a tenth of
# it in the last quarter, so S = 7,200 lambda: 7.2 at 1e-3. Adam's L2 takes a dead gamma down by the
# learning rate a step, 1e-3, whatever lambda is, and has time enough.
TRAININGS = dict(
    smoke=Training('32-0.25x', 1),
    small=Training('32-0.25x', 36, bfloat16=True),
    paper=Training('64-1x', 325),
)


def _read_sparsity(work_dir: Path) -> dict[str, Any]:
    return sparsity_of(TrainedArm(work_dir))


def sparsity_of(arm: TrainedArm) -> dict[str, Any]:
    """Shares of convolution filters that are inactive by gamma and by their activations over the
    training images, test error in %, training loss."""
    census = arm.census()
    filters = {n: channels for n, channels in census.items() if n.startswith('backbone.')}
    collapsed = count_channels(filters, 'collapsed', LIMITS)
    return dict(
        collapsed=collapsed.share,
        dead=count_channels(filters, 'dead', LIMITS).share,
        by_layer=[count / size for count, size in collapsed.by_layer.values()],
        error=100 - arm.top1(),
        loss=arm.train_loss(),
        classes=classes_of(arm.config),
    )


def _cell(arm: dict[str, Any]) -> str:
    return f'{100 * arm["dead"]:.0f} / {100 * arm["collapsed"]:.0f} / {arm["error"]:.1f}'


_CELL = '% inactive by activation / by gamma / test error %'


def _sparsity_panel(x: str, numbers: Numbers, x_scale: str) -> Panel:
    lines = {
        row: [(float(column), 100 * arm['collapsed']) for column, arm in arms.items()]
        for row, arms in grid(numbers).items()
    }
    return Panel(x, 'filters with |gamma| < 1e-3, %', lines, x_scale)


def _error_panel(numbers: Numbers) -> Panel:
    lines = {
        row: [(100 * arm['collapsed'], arm['error']) for arm in arms.values()]
        for row, arms in grid(numbers).items()
    }
    return Panel('filters with |gamma| < 1e-3, %', 'test error, %', lines)


# in points: best errors further apart are not alike; an arm this near to the best of its row counts
_LIKE, _NEAR = 5.0, 2.0

# table 1, the half of CIFAR-10
_TABLE_1 = {
    ('SGD', 'L2'): (2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 0),
    ('Adam', 'L2'): (1e-2, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6, 0),
    ('Adadelta', 'L2'): (1e-2, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4),
    ('Adagrad', 'L2'): (2e-2, 1e-2, 5e-3, 1e-3, 1e-4),
    ('SGD', 'WD'): (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
    ('Adam', 'WD'): (1e-2, 1e-3, 5e-4, 2e-4, 1e-4),
}
_DECAYS = dict(
    smoke={('SGD', 'L2'): (1e-3,), ('Adam', 'L2'): (1e-3, 0), ('Adam', 'WD'): (1e-3,)},
    small={
        ('SGD', 'L2'): (2e-3, 1e-3, 1e-4),
        ('Adam', 'L2'): (1e-3, 1e-4, 0),
        ('Adadelta', 'L2'): (1e-3,),
        ('Adagrad', 'L2'): (1e-2,),
        ('SGD', 'WD'): (1e-3,),
        ('Adam', 'WD'): (1e-3, 5e-4),
    },
    paper=_TABLE_1,
)


def _optimizer_arms(scale: str) -> Sequence[Arm]:
    return [
        TRAININGS[scale].basic_net(f'{optimizer} {kind}, {decay:g}', optimizer, kind, decay)
        for (optimizer, kind), decays in _DECAYS[scale].items()
        for decay in decays
    ]


def _judge_optimizers(numbers: Numbers) -> list[Finding]:
    rows = grid(numbers)
    best = {row: min(arm['error'] for arm in arms.values()) for row, arms in rows.items()}
    near = {
        row: max(
            (f'{row}, {decay}' for decay, arm in arms.items() if arm['error'] <= best[row] + _NEAR),
            key=lambda name: numbers[name]['dead'],
        )
        for row, arms in rows.items()
    }

    def compare(clause: str, sparse: str, other: str, words: str = '') -> Finding:
        names = near[sparse], near[other]
        alike = abs(best[sparse] - best[other]) <= _LIKE
        shares = [numbers[name]['dead'] for name in names]
        found = ' and '.join(f'{share:.0%} with {name}' for share, name in zip(shares, names))
        return tell(clause, found + words, more(*shares, SHARE) if alike else None, numbers, names)

    free = numbers['Adam L2, 0']['dead']
    return [
        compare(
            'Adam leaves more filters inactive than SGD',
            'Adam L2',
            'SGD L2',
            f', by activation, the most at an error within {_NEAR} points of the best of its row',
        ),
        *(
            compare(f'so does {row.removesuffix(" L2")}', row, 'SGD L2')
            for row in ('Adadelta L2', 'Adagrad L2')
            if row in rows
        ),
        compare('L2 leaves more than weight decay with Adam', 'Adam L2', 'Adam WD'),
        tell(
            'without decay next to none are',
            f'{free:.0%} with Adam',
            free < 2 * SHARE,
            numbers,
            ['Adam L2, 0'],
        ),
    ]


IMPLICIT_OPTIMIZERS = Experiment(
    name='implicit-optimizers',
    shows='table 1 of the implicit-sparsity paper: BasicNet, optimizer x L2 or weight decay',
    claim='At like error Adam with L2 leaves more filters inactive (70 %) than with weight decay '
    '(40 %) and than SGD (0 %), and so do Adadelta and Adagrad; without decay next to none are.',
    arms=_optimizer_arms,
    read=_read_sparsity,
    tabulate=lambda numbers: grid_table(f'{_CELL} at decay', numbers, _cell),
    panels=lambda numbers: [
        _sparsity_panel(
            'decay lambda', {n: a for n, a in numbers.items() if n[-3:] != ', 0'}, 'log'
        ),
        _error_panel(numbers),
    ],
    judge=_judge_optimizers,
)


# table 3, the half of CIFAR-10; the larger batches take longer and come first
_BATCH_SIZES = dict(
    smoke={1e-3: (80, 20)},
    small={1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)},
    paper={1e-4: (160, 80, 40, 20), 1e-3: (80, 40, 20)},
)


def _batch_size_arms(scale: str) -> Sequence[Arm]:
    return [
        TRAININGS[scale].basic_net(f'L2 {decay:g}, {size}', 'Adam', 'L2', decay, size)
        for decay, sizes in _BATCH_SIZES[scale].items()
        for size in sizes
    ]


def _judge_batch_sizes(numbers: Numbers) -> list[Finding]:
    found = []
    for row, arms in grid(numbers).items():
        shares = {int(size): arm['collapsed'] for size, arm in arms.items()}
        small, large = min(shares), max(shares)
        found.append(
            tell(
                f'larger batches leave fewer filters inactive with {row}',
                f'{shares[small]:.0%} at {small}, {shares[large]:.0%} at {large}',
                more(shares[small], shares[large], SHARE),
                numbers,
                [f'{row}, {small}', f'{row}, {large}'],
            )
        )
    return found


IMPLICIT_BATCH_SIZE = Experiment(
    name='implicit-batch-size',
    shows='table 3 of the implicit-sparsity paper: BasicNet with Adam and L2, batch size',
    claim='At as many iterations larger batches leave fewer filters inactive: 70 % at 20 and 61 % '
    'at 160 with L2 1e-4.',
    arms=_batch_size_arms,
    read=_read_sparsity,
    tabulate=lambda numbers: grid_table(
        '% inactive by gamma / test error % / training loss at batch size',
        numbers,
        lambda arm: f'{100 * arm["collapsed"]:.0f} / {arm["error"]:.1f} / {arm["loss"]:.2f}',
    ),
    panels=lambda numbers: [
        _sparsity_panel('batch size', numbers, 'log'),
        _error_panel(numbers),
    ],
    judge=_judge_batch_sizes,
)
