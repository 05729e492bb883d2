"""What the experiments of the BN-only paper (Frankle et al., ICLR 2021) share."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..experiment import Arm, Options, sweep
from ..pictures import over_columns
from ..scales import length
from ..tables import GridTable

CONFIG = 'cifar/resnet14_bn_cifar10_in_memory.py'
CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')
NORMS = dict(type='Uniform', layer='_BatchNorm', a=0.0, b=1.0, bias=0)
# deep nets take longest and come first
DEPTHS = dict(smoke=(14, 8), small=(32, 14), paper=(866, 434, 218, 110, 56, 32, 14))


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
SCALES = dict(
    smoke=_training(1, 32, 2e-3) | _TINY,
    small=_training(20, 64, 2e-3, bfloat16=True) | _HALF,
    paper=_training(160, 128, 1e-4),
)


def trained(*parts: str, **settings: Any) -> Options:
    """Only these parts, see ``FreezeHook``; all without any."""
    freeze = [dict(type='FreezeHook', train=list(parts), **settings)] if parts or settings else []
    return {'custom_hooks': [dict(type='SparsityHook'), *freeze]}


TRAINED = {
    'all': trained(),
    'BN': trained('norm'),
    'BN + output': trained('norm', 'head.fc'),
    'output': trained('head.fc'),
    '2 random a channel': trained(per_channel=2),
}
# disabled: 1 and 0 for good
FIXED = {
    'model.backbone.init_cfg': [CONVOLUTIONS, dict(type='NormAffine')],
    'custom_hooks': [dict(type='SparsityHook'), dict(type='FreezeHook', freeze=['norm'])],
}


def depth(layers: int) -> Options:
    return {'model.backbone.depth': layers}


def by_depth(rows: Mapping[str, Options], *, smoke: Sequence[str]) -> dict[str, list[Arm]]:
    """Arms ``'row, depth'``; at ``smoke`` some of the rows at the smallest depth."""

    def arms(scale: str) -> dict[str, Options]:
        depths, shown = DEPTHS[scale], rows
        if scale == 'smoke':
            depths, shown = depths[-1:], smoke
        return {f'{row}, {n}': depth(n) | rows[row] for n in depths for row in shown}

    return sweep(CONFIG, SCALES, arms)


TOP1_BY_DEPTH = dict(
    table=GridTable('top-1 % at depth', '{top1:.1f}'), panels=[over_columns('depth', 'top1')]
)
