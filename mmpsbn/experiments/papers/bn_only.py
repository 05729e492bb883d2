"""The experiment of the BN-only paper (Frankle et al., ICLR 2021)."""

from pathlib import Path
from typing import Any

from ...pruning.census import take_census
from ...pruning.measures import Limits, count_channels
from ...pruning.sparsity import scales_clamped
from ..experiment import Experiment, Options, arms_by_scale
from ..measure import TrainedArm
from ..measured import Numbers, Quantity, grid
from ..pictures import over_columns
from ..scales import length
from ..tables import GridTable
from ..verdicts import POINTS, SHARE, Verdict, falls, grows, judge, tell

_TRAINED = {  # row -> hooks
    'all': [],
    'BN': [dict(type='FreezeHook', train=['norm'])],
    'BN + output': [dict(type='FreezeHook', train=['norm', 'head.fc'])],
    'output': [dict(type='FreezeHook', train=['head.fc'])],
    '2 random a channel': [dict(type='FreezeHook', train=[], per_channel=2)],
}
_ROWS = dict(smoke=('all', 'BN'), small=('all', 'BN'), paper=tuple(_TRAINED))
# deep nets take longest and come first
_DEPTHS = dict(smoke=(14, 8), small=(56, 32, 14), paper=(866, 434, 218, 110, 56, 32, 14))


def _training(epochs: int, batch_size: int, weight_decay: float, bfloat16: bool = False) -> Options:
    """The rate is divided by 10 after a half and after three quarters."""
    return length(epochs, batch_size=batch_size, bfloat16=bfloat16) | {
        'optim_wrapper.optimizer.weight_decay': weight_decay,
        'param_scheduler.milestones': [epochs // 2, epochs * 3 // 4],
    }


# small: S = 10 epochs * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 at the full rate, as the paper's 80
# epochs have with a decay of 1e-4; from 0.3 to 0.01 takes 3.4. Half of the test images, for each
# net is evaluated five times
_HALF = {f'{split}_dataloader.dataset.num_samples': 5_000 for split in ('val', 'test')}
_TINY = {'model.backbone.base_channels': 4, 'model.head.in_channels': 16}
_SCALES = dict(
    smoke=_training(1, 32, 2e-3) | _TINY,
    small=_training(20, 64, 2e-3, bfloat16=True) | _HALF,
    paper=_training(160, 128, 1e-4),
)


def _read(work_dir: Path) -> dict[str, Any]:
    """Accuracy in %; by threshold the share of gammas below it and the change of the accuracy,
    in points, when these are 0; share of the ReLUs that are off on more than 99 % of the pixels
    of the test images."""
    arm = TrainedArm(work_dir)
    census, top1 = take_census(arm.model), arm.top1()
    small, change = {}, {}
    for threshold in (0.01, 0.05, 0.1):
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
        classes=arm.classes,
    )


_TOP1 = Quantity('top-1 accuracy, %', lambda arm: arm.top1, '.1f %')
_SMALL = Quantity(
    '|gamma| < 0.01, % of channels', lambda arm: arm.small_gammas['0.01'], '.0%', SHARE
)
_OFF = Quantity('ReLUs off, %', lambda arm: arm.relus_off, '.0%', SHARE)


def _claims(numbers: Numbers) -> dict[str, Verdict]:
    rows = grid(numbers)
    bn = rows['BN']
    low, high = min(bn, key=int), max(bn, key=int)
    shallow, deep, of_all = bn[low], bn[high], rows['all'][high]
    change = max((arm.change_clamped['0.01'] for arm in bn.values()), key=abs)
    more_small = '|gamma| < 0.01 in {0} and {1} (1 % when training starts)'
    return {
        'with BN alone deeper nets are better': tell(
            f'{shallow.top1:.1f} % at depth {low}, {deep.top1:.1f} % at {high}',
            grows([shallow.top1, deep.top1], 1.5 * POINTS),  # half of the images, at small
            *bn.values(),
        ),
        'BN alone disables more channels than training all': judge(
            falls, _SMALL, deep, of_all, found=more_small
        ),
        'the disabled ones are expendable': tell(
            f'accuracy changes by {change:+.1f} points at most when they are 0',
            None if _SMALL.of(deep) < 0.01 + SHARE else abs(change) <= 1,
            *bn.values(),
        ),
        'BN alone turns more ReLUs off than training all': judge(
            falls, _OFF, deep, of_all, found='{0} and {1}'
        ),
    }


BN_ONLY = Experiment(
    name='bn-only',
    shows='figures 2, 5, 6 and 7 of the BN-only paper: accuracy and small gammas against depth',
    claim='BN alone trained, deeper nets get better (48 % at depth 14, 70 % at 110, 82 % at 866) '
    'and a quarter to a third of the gammas end below 0.01, which can be set to 0 at no loss; 28 % '
    'to 39 % of the ReLUs are off. With all trained 5 % of gammas do.',
    arms=arms_by_scale(
        'cifar/resnet14_bn_cifar10_in_memory.py',
        _SCALES,
        lambda scale: {
            f'{row}, {depth}': {
                'model.backbone.depth': depth,
                'custom_hooks': [dict(type='SparsityHook'), *_TRAINED[row]],
            }
            for depth in _DEPTHS[scale]
            for row in _ROWS[scale]
        },
    ),
    read=_read,
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / ReLUs off %, '
        'at depth',
        '{top1:.1f} / {small_gammas:.0p} / {change_clamped:+.1f} / {relus_off:.0p}',
    ),
    panels=[over_columns('depth', quantity) for quantity in (_TOP1, _SMALL, _OFF)],
    claims=_claims,
)
