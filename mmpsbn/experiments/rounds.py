"""Training in rounds of cosine annealing (psBN paper section 3.2), and what is read of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .measure import classes_of
from .pictures import Panel
from .scales import length
from .tables import Numbers, Table, arm_table

CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
NORMS = dict(
    BN={'model.backbone.norm_cfg': dict(_delete_=True, type='BN')},
    psBN={'model.backbone.norm_cfg': dict(_delete_=True, type='psBN', alpha=0.1)},
)
_TINY = {'model.backbone.depth': 8, 'model.backbone.base_channels': 4, 'model.head.in_channels': 16}


@dataclass(frozen=True)
class Rounds:
    """A schedule of warm restarts: ``rounds`` times cosine annealing over ``epochs`` epochs."""

    rounds: int
    epochs: int
    batch_size: int
    weight_decay: float
    lr: float = 0.1
    bfloat16: bool = False

    def options(self, *hooks: dict[str, Any]) -> dict[str, Any]:
        """Over a config of one round; ``hooks``: further ones."""
        whole = length(
            self.rounds * self.epochs, batch_size=self.batch_size, bfloat16=self.bfloat16
        )
        return whole | {
            'optim_wrapper.optimizer.lr': self.lr,
            'optim_wrapper.optimizer.weight_decay': self.weight_decay,
            'param_scheduler': dict(
                _delete_=True,
                type='CosineRestartLR',
                periods=[self.epochs] * self.rounds,
                restart_weights=[1] * self.rounds,
                eta_min=0,
                by_epoch=True,
                convert_to_iter_based=True,
            ),
            'train_cfg.val_interval': self.epochs,
            'custom_hooks': [dict(type='RoundsHook'), dict(type='SparsityHook'), *hooks],
        }


SMOKE = Rounds(rounds=1, epochs=1, batch_size=32, weight_decay=2e-3)
# small: a fifth of the images in batches of half the size with four times the decay: a round of n
# epochs has S = 157 n steps * lr / 2 * 2e-3 / 0.1 (design section 3), at 0.1 and 15 epochs 2.4
# where the paper's has 9.8
SMALL = Rounds(rounds=1, epochs=25, batch_size=64, weight_decay=2e-3, bfloat16=True)  # S = 3.9
PAPER = Rounds(rounds=1, epochs=100, batch_size=128, weight_decay=5e-4)  # S = 9.8


def net(scale: str, **backbone: Any) -> dict[str, Any]:
    """Settings of the network, and at ``smoke`` a tiny one."""
    options = {f'model.backbone.{key}': value for key, value in backbone.items()}
    return options | (_TINY if scale == 'smoke' else {})


def read_rounds(work_dir: Path) -> dict[str, Any]:
    """By round: FLOPs sparsity, collapsed and dead channels, top-1 accuracy, training loss;
    ``ensemble``: top-1 of the snapshots together, where there are any."""
    rows = json.loads((work_dir / 'rounds.json').read_text())
    numbers = dict(
        flops_sparsity=[row['flops_sparsity'] for row in rows],
        collapsed=[row['collapsed'] for row in rows],
        channels=rows[-1]['channels'],
        dead=[row.get('dead') for row in rows],
        prunable=rows[-1].get('prunable'),
        top1=[row['metrics']['accuracy/top1'] for row in rows],
        loss=[row['loss'] for row in rows],
        classes=classes_of(Config.fromfile(str(work_dir / 'config.py'))),
    )
    ensemble = work_dir / 'ensemble.json'
    if ensemble.exists():
        numbers['ensemble'] = json.loads(ensemble.read_text())['metrics']['accuracy/top1']
    return numbers


def round_cell(arm: dict[str, Any], at: int = -1) -> str:
    """FLOPs sparsity, collapsed, dead and accuracy after a round, the last one by default."""
    dead = '' if arm['dead'][at] is None else arm['dead'][at]
    return (
        f'{100 * arm["flops_sparsity"][at]:.1f} / {arm["collapsed"][at]} / {dead} / '
        f'{arm["top1"][at]:.1f}'
    )


CELL = 'FLOPs sparsity % / collapsed / dead / top-1 %'


def tabulate_rounds(numbers: Numbers, cell=round_cell, meaning: str = CELL) -> Table:
    count = max(len(arm['top1']) for arm in numbers.values())
    columns = {str(at + 1): lambda arm, at=at: cell(arm, at) for at in range(count)}
    return arm_table(f'{meaning} after round', numbers, columns)


def round_panel(numbers: Numbers, key: str, y: str, factor: float = 1) -> Panel:
    """A quantity over the rounds, a line an arm."""
    lines = {
        name: [(at, factor * value) for at, value in enumerate(arm[key], 1) if value is not None]
        for name, arm in numbers.items()
    }
    return Panel('round', y, lines, 'count')


def round_panels(numbers: Numbers) -> list[Panel]:
    return [
        round_panel(numbers, 'flops_sparsity', 'FLOPs sparsity, %', 100),
        round_panel(numbers, 'top1', 'top-1 accuracy, %'),
    ]
