"""Rounds of cosine annealing, with BN and with psBN."""

from collections.abc import Callable, Sequence
from typing import Any

from ...experiment import Options, sweep
from ...pictures import over_columns, over_steps
from ...scales import length
from ...tables import ArmTable, GridTable
from .._shared import DECAY, LR, width

CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
VGG = 'cifar/vgg16_psbn_cifar10_in_memory.py'
DEPTH = 'model.backbone.depth'
NORM, ACTIVATION = 'model.backbone.norm_cfg', 'model.backbone.act_cfg'
PSBN = dict(_delete_=True, type='psBN', alpha=0.1)
NORMS = dict(BN={NORM: dict(_delete_=True, type='BN')}, psBN={NORM: PSBN})
_LEAKY = {ACTIVATION: dict(type='LeakyReLU', negative_slope=0.01, inplace=True)}
# of figure 3
NETS = {'BN + ReLU': {}, 'BN + Leaky ReLU': _LEAKY, 'psBN + ReLU': NORMS['psBN']}
HOOKS = [dict(type='RoundsHook'), dict(type='SparsityHook')]
TINY = {DEPTH: 8} | width(4)
# small: a fifth of the images in batches of half the size with four times the decay: a round of n
# epochs has S = 157 n steps * lr / 2 * 2e-3 / 0.1, at 0.1 and 15 epochs 2.4
# where the paper's has 9.8
_ROUND = dict(
    smoke=dict(epochs=1, batch_size=32, weight_decay=2e-3),
    small=dict(epochs=25, batch_size=64, weight_decay=2e-3, bfloat16=True),  # S = 3.9
    paper=dict(epochs=100, batch_size=128, weight_decay=5e-4),  # S = 9.8
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
        LR: lr,
        DECAY: weight_decay,
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


_CELLS = 'FLOPs sparsity % / collapsed / dead / top-1 %'
_CELL = '{flops_sparsity:.1p} / {collapsed} / {dead} / {top1:.1f}'
_DRAWN = ('flops_sparsity', 'top1')
BY_ROUND = dict(
    table=ArmTable(f'{_CELLS} after round', step=_CELL),
    panels=over_steps('round', *_DRAWN),
)


def one_round(
    name: str, option: Callable[[float], Options], **values: Sequence[float]
) -> dict[str, Any]:
    """Arms, table and panels: BN and psBN for one round, at each of the ``values`` of a scale."""
    return dict(
        arms=lambda scale: sweep(
            CONFIG,
            rounds(scale),
            {
                f'{norm}, {value:g}': option(value) | change
                for norm, change in NORMS.items()
                for value in values[scale]
            },
        ),
        table=GridTable(f'{_CELLS} at {name}', _CELL),
        panels=over_columns(name, *_DRAWN),
    )
