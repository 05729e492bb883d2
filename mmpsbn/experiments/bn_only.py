"""The experiment of the BN-only paper (Frankle et al., ICLR 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pruning.census import take_census
from ..pruning.measures import Limits, count_channels
from ..pruning.sparsity import scales_clamped
from .experiment import Arm, Experiment
from .measure import TrainedArm, classes_of
from .pictures import Panel
from .scales import length
from .tables import Numbers, grid, grid_table
from .verdicts import POINTS, SHARE, Finding, more, tell

_CONFIG = 'cifar/resnet14_bn_cifar10_in_memory.py'
_THRESHOLDS = (0.01, 0.05, 0.1)
_TRAINED: dict[str, dict[str, Any] | None] = {
    'all': None,
    'BN': dict(train=['norm']),
    'BN + output': dict(train=['norm', 'head.fc']),
    'output': dict(train=['head.fc']),
    '2 random a channel': dict(train=[], per_channel=2),
}


@dataclass(frozen=True)
class _Training:
    """The rate is divided by 10 after a half and after three quarters. Deep nets, which take
    longest, come first."""

    depths: Sequence[int]
    trained: Sequence[str]
    epochs: int
    batch_size: int
    weight_decay: float
    options: Mapping[str, Any]
    bfloat16: bool = False


# small: S = 10 epochs * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 at the full rate, as the paper's 80
# epochs have with a decay of 1e-4; from 0.3 to 0.01 takes 3.4. Half of the test images, for each
# net is evaluated five times
_SCALES = dict(
    smoke=_Training(
        depths=(14, 8),
        trained=('all', 'BN'),
        epochs=1,
        batch_size=32,
        weight_decay=2e-3,
        options={'model.backbone.base_channels': 4, 'model.head.in_channels': 16},
    ),
    small=_Training(
        depths=(56, 32, 14),
        trained=('all', 'BN'),
        epochs=20,
        batch_size=64,
        weight_decay=2e-3,
        options={f'{split}_dataloader.dataset.num_samples': 5_000 for split in ('val', 'test')},
        bfloat16=True,
    ),
    paper=_Training(
        depths=(866, 434, 218, 110, 56, 32, 14),
        trained=tuple(_TRAINED),
        epochs=160,
        batch_size=128,
        weight_decay=1e-4,
        options={},
    ),
)


def _arms(scale: str) -> Sequence[Arm]:
    training = _SCALES[scale]
    options = length(
        training.epochs, batch_size=training.batch_size, bfloat16=training.bfloat16
    ) | {
        'optim_wrapper.optimizer.weight_decay': training.weight_decay,
        'param_scheduler.milestones': [training.epochs // 2, training.epochs * 3 // 4],
        **training.options,
    }
    return [
        Arm(f'{trained}, {depth}', _CONFIG, options | _of_net(depth, trained))
        for depth in training.depths
        for trained in training.trained
    ]


def _of_net(depth: int, trained: str) -> dict[str, Any]:
    hooks = [dict(type='SparsityHook')]
    if _TRAINED[trained] is not None:
        hooks.append(dict(type='FreezeHook', **_TRAINED[trained]))
    return {'model.backbone.depth': depth, 'custom_hooks': hooks}


def _read(work_dir: Path) -> dict[str, Any]:
    """Accuracy in %; by threshold the share of gammas below it and the change of the accuracy,
    in points, when these are 0; share of the ReLUs that are off on more than 99 % of the pixels
    of the test images."""
    arm = TrainedArm(work_dir)
    census, top1 = take_census(arm.model), arm.top1()
    small, change = {}, {}
    for threshold in _THRESHOLDS:
        limits = Limits(gamma=threshold, eps=0.0)
        small[str(threshold)] = count_channels(census, 'collapsed', limits).share
        with scales_clamped(arm.model, threshold=threshold):
            change[str(threshold)] = arm.top1() - top1
    return dict(
        top1=top1,
        small_gammas=small,
        change_clamped=change,
        relus_off=arm.relus_off(),
        loss=arm.train_loss(),
        classes=classes_of(arm.config),
    )


def _cell(arm: dict[str, Any]) -> str:
    shares = ', '.join(f'{100 * share:.0f}' for share in arm['small_gammas'].values())
    changes = ', '.join(f'{change:+.1f}' for change in arm['change_clamped'].values())
    return f'{arm["top1"]:.1f} / {shares} / {changes} / {100 * arm["relus_off"]:.0f}'


def _panels(numbers: Numbers) -> list[Panel]:
    def lines(value) -> dict[str, list]:
        return {
            trained: sorted((int(depth), value(arm)) for depth, arm in row.items())
            for trained, row in grid(numbers).items()
        }

    return [
        Panel('depth', 'top-1 accuracy, %', lines(lambda arm: arm['top1']), 'log'),
        Panel(
            'depth',
            '|gamma| < 0.01, % of channels',
            lines(lambda arm: 100 * arm['small_gammas']['0.01']),
            'log',
        ),
        Panel('depth', 'ReLUs off, %', lines(lambda arm: 100 * arm['relus_off']), 'log'),
    ]


def _judge(numbers: Numbers) -> list[Finding]:
    rows = grid(numbers)
    bn = {int(depth): arm for depth, arm in rows['BN'].items()}
    shallow, deep, of_all = bn[min(bn)], bn[max(bn)], rows['all'][str(max(bn))]
    small, small_of_all = (arm['small_gammas']['0.01'] for arm in (deep, of_all))
    change = max((arm['change_clamped']['0.01'] for arm in bn.values()), key=abs)
    every = [f'BN, {depth}' for depth in bn]
    deepest = [f'{trained}, {max(bn)}' for trained in ('BN', 'all')]
    return [
        tell(
            'with BN alone deeper nets are better',
            f'{shallow["top1"]:.1f} % at depth {min(bn)}, {deep["top1"]:.1f} % at {max(bn)}',
            more(deep['top1'], shallow['top1'], 1.5 * POINTS),  # half of the images, at small
            numbers,
            every,
        ),
        tell(
            'BN alone disables more channels than training all',
            f'|gamma| < 0.01 in {small:.0%} and {small_of_all:.0%} (1 % when training starts)',
            more(small, small_of_all, SHARE),
            numbers,
            deepest,
        ),
        tell(
            'the disabled ones are expendable',
            f'accuracy changes by {change:+.1f} points at most when they are 0',
            None if small < 0.01 + SHARE else abs(change) <= 1,
            numbers,
            every,
        ),
        tell(
            'BN alone turns more ReLUs off than training all',
            f'{deep["relus_off"]:.0%} and {of_all["relus_off"]:.0%}',
            more(deep['relus_off'], of_all['relus_off'], SHARE),
            numbers,
            deepest,
        ),
    ]


BN_ONLY = Experiment(
    name='bn-only',
    shows='figures 2, 5, 6 and 7 of the BN-only paper: accuracy and small gammas against depth',
    claim='BN alone trained, deeper nets get better (48 % at depth 14, 70 % at 110, 82 % at 866) '
    'and a quarter to a third of the gammas end below 0.01, which can be set to 0 at no loss; 28 % '
    'to 39 % of the ReLUs are off. With all trained 5 % of gammas do.',
    arms=_arms,
    read=_read,
    tabulate=lambda numbers: grid_table(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / ReLUs off %, '
        'at depth',
        numbers,
        _cell,
    ),
    panels=_panels,
    judge=_judge,
)
