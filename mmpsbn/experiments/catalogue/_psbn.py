"""What the experiments of the psBN paper (arXiv 2001.11216) share: rounds of cosine annealing."""

from collections.abc import Callable, Sequence
from typing import Any

from ..experiment import Arm, Options, sweep
from ..pictures import over_columns, over_steps
from ..scales import length
from ..tables import ArmTable, GridTable

CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
NORMS = dict(
    BN={'model.backbone.norm_cfg': dict(_delete_=True, type='BN')},
    psBN={'model.backbone.norm_cfg': dict(_delete_=True, type='psBN', alpha=0.1)},
)
HOOKS = [dict(type='RoundsHook'), dict(type='SparsityHook')]
TINY = {'model.backbone.depth': 8, 'model.backbone.base_channels': 4, 'model.head.in_channels': 16}
# of a VGG at smoke, which knows no width
FEW = {f'{split}_dataloader.dataset.num_samples': 20 for split in ('train', 'val', 'test')}
# small: a fifth of the images in batches of half the size with four times the decay: a round of n
# epochs has S = 157 n steps * lr / 2 * 2e-3 / 0.1, at 0.1 and 15 epochs 2.4
# where the paper's has 9.8
_ROUND = dict(
    smoke=dict(epochs=1, batch_size=32, weight_decay=2e-3),
    small=dict(epochs=25, batch_size=64, weight_decay=2e-3, bfloat16=True),  # S = 3.9
    paper=dict(epochs=100, batch_size=128, weight_decay=5e-4),  # S = 9.8
)
_CELLS = 'FLOPs sparsity % / collapsed / dead / top-1 %'
_CELL = '{flops_sparsity:.1p} / {collapsed} / {dead} / {top1:.1f}'
_DRAWN = ('flops_sparsity', 'top1')
BY_ROUND = dict(
    table=ArmTable(f'{_CELLS} after round', step=_CELL),
    panels=[over_steps('round', y) for y in _DRAWN],
)


def by_value(name: str) -> dict[str, Any]:
    """Table and panels of :func:`one_round`."""
    return dict(
        table=GridTable(f'{_CELLS} at {name}', _CELL),
        panels=[over_columns(name, y) for y in _DRAWN],
    )


def rounds(
    scale: str, count: int = 1, *, lr: float = 0.1, tiny: Options = TINY, **changes: Any
) -> Options:
    """Options of ``count`` rounds, and at ``smoke`` of a ``tiny`` net.

    Args:
        changes: of ``epochs`` a round, ``batch_size``, ``weight_decay`` or ``bfloat16``.
    """
    values = _ROUND[scale] | changes
    epochs, weight_decay = values.pop('epochs'), values.pop('weight_decay')
    restarts = dict(periods=[epochs] * count, restart_weights=[1] * count, eta_min=0)
    options = length(count * epochs, **values) | {
        'optim_wrapper.optimizer.lr': lr,
        'optim_wrapper.optimizer.weight_decay': weight_decay,
        'param_scheduler': dict(
            _delete_=True,
            type='CosineRestartLR',
            by_epoch=True,
            convert_to_iter_based=True,
            **restarts,
        ),
        'train_cfg.val_interval': epochs,
        'custom_hooks': HOOKS,
    }
    return options | (tiny if scale == 'smoke' else {})


def one_round(
    option: Callable[[float], Options], **values: Sequence[float]
) -> dict[str, list[Arm]]:
    """BN and psBN at each of the ``values`` of a scale, for one round."""
    return sweep(
        CONFIG,
        {scale: rounds(scale) for scale in values},
        lambda scale: {
            f'{norm}, {value:g}': option(value) | change
            for norm, change in NORMS.items()
            for value in values[scale]
        },
    )
