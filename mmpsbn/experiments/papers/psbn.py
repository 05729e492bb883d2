"""The experiments of the psBN paper (arXiv 2001.11216) over several rounds of cosine annealing
(section 3.2), and what all of its experiments share: a ResNet-20, with BN and with psBN."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..experiment import Experiment, Options, arms_by_scale
from ..measure import classes_of
from ..measured import Numbers, Quantity, grid
from ..pictures import over_steps
from ..scales import length
from ..tables import ArmTable, write_cell
from ..verdicts import POINTS, SHARE, Verdict, falls, grows, judge, no_less, under_a_fifth

CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
NORMS = dict(
    BN={'model.backbone.norm_cfg': dict(_delete_=True, type='BN')},
    psBN={'model.backbone.norm_cfg': dict(_delete_=True, type='psBN', alpha=0.1)},
)
_HOOKS = [dict(type='RoundsHook'), dict(type='SparsityHook')]
_TINY = {'model.backbone.depth': 8, 'model.backbone.base_channels': 4, 'model.head.in_channels': 16}
# small: a fifth of the images in batches of half the size with four times the decay: a round of n
# epochs has S = 157 n steps * lr / 2 * 2e-3 / 0.1, at 0.1 and 15 epochs 2.4
# where the paper's has 9.8
_ROUND = dict(
    smoke=dict(epochs=1, batch_size=32, weight_decay=2e-3),
    small=dict(epochs=25, batch_size=64, weight_decay=2e-3, bfloat16=True),  # S = 3.9
    paper=dict(epochs=100, batch_size=128, weight_decay=5e-4),  # S = 9.8
)


def rounds(scale: str, count: int = 1, *, lr: float = 0.1, **changes: Any) -> Options:
    """Options of ``count`` rounds, and at ``smoke`` of a tiny net.

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
        'custom_hooks': _HOOKS,
    }
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


SPARSITY = Quantity('FLOPs sparsity, %', lambda arm: arm.flops_sparsity, '.1%', SHARE)
DEAD = Quantity(
    'dead channels, %',
    lambda arm: None if arm.dead is None else arm.dead / arm.prunable,
    '.1%',
    SHARE,
)
TOP1 = Quantity('top-1 accuracy, %', lambda arm: arm.top1, '.1f %', POINTS)
BOTH = '{1} with psBN, {0} with BN'
CELLS = 'FLOPs sparsity % / collapsed / dead / top-1 %'
CELL = '{flops_sparsity:.1p} / {collapsed} / {dead} / {top1:.1f}'

_LEAKY = {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=0.01, inplace=True)}
_ROUND_ARMS = {'BN + ReLU': {}, 'BN + Leaky ReLU': _LEAKY, 'psBN + ReLU': NORMS['psBN']}


def _changes_little(values: Sequence[float], margin: float) -> bool | None:
    before, after = values
    return None if before < 2 * margin else abs(after - before) < before / 2


def _claims_of_rounds(numbers: Numbers) -> dict[str, Verdict]:
    bn, leaky, psbn = (numbers[name] for name in _ROUND_ARMS)
    return {
        'the FLOPs sparsity grows with every round under BN': judge(grows, SPARSITY, bn),
        'Leaky ReLU changes it by less than a half': judge(
            _changes_little, SPARSITY, bn, leaky, found='{1} in the end'
        ),
        'psBN keeps it under a fifth': judge(
            under_a_fifth, SPARSITY, bn, psbn, found=f'FLOPs sparsity {BOTH}'
        ),
        'psBN is no less accurate': judge(no_less, TOP1, bn, psbn, found=BOTH),
        'the accuracy falls under BN as filters collapse': judge(falls, TOP1, bn),
    }


PSBN_ROUNDS = Experiment(
    name='psbn-rounds',
    shows='figure 3 of the psBN paper: sparsity and accuracy of ResNet-20 over warm restarts',
    claim='With BN and ReLU the FLOPs sparsity grows with every round, Leaky ReLU changes little, '
    'psBN keeps it near 0 and with it the accuracy, which BN loses.',
    arms=arms_by_scale(
        CONFIG,
        dict(
            smoke=rounds('smoke', 2), small=rounds('small', 5, epochs=15), paper=rounds('paper', 9)
        ),
        lambda scale: _ROUND_ARMS,
    ),
    read=read_rounds,
    table=ArmTable(f'{CELLS} after round', step=CELL),
    panels=[over_steps('round', SPARSITY), over_steps('round', TOP1)],
    claims=_claims_of_rounds,
)

# small: 2,000 images that are not augmented, so that so few steps can fit them (5,000 of them BN
# does not fit in a round), and half the decay; S = 32 * 90 steps * 0.05 * 1e-3 / 0.1 = 1.4 a
# round, 7.2 in all
_FEW = {
    'train_dataloader.dataset.dataset.num_samples': 2_000,
    'data_preprocessor.padding': 0,
    'data_preprocessor.flip_prob': 0.0,
}
_LOSS = Quantity('training loss', lambda arm: arm.loss, '.2f')


def _claims_of_random_labels(numbers: Numbers) -> dict[str, Verdict]:
    bn, psbn = numbers['BN'], numbers['psBN']
    # a net that has fitted the data and loses it again ends as one that never did
    best, best_of_psbn = (
        min((step.loss for step in arm.steps if step.loss), default=math.inf) for arm in (bn, psbn)
    )
    fitted = best < 1
    grown = 'the FLOPs sparsity grows with every round under BN'
    return {
        grown: judge(grows, SPARSITY, bn, given=fitted),
        'and so does the share of dead channels': judge(grows, DEAD, bn, given=fitted),
        'in the last round BN no longer fits the data': Verdict(
            f'loss {best:.2f} in its best round, {write_cell("{loss:.2f}", bn)} in the last',
            bn.loss > best + 0.5 if fitted and bn.loss is not None else None,
        ),
        'psBN keeps it under a fifth': judge(
            under_a_fifth,
            SPARSITY,
            bn,
            psbn,
            found=f'{{1}}, loss {best_of_psbn:.2f} in its best round',
            given=best_of_psbn < 1,
        ),
    }


PSBN_RANDOM_LABELS = Experiment(
    name='psbn-random-labels',
    shows='figure 2 of the psBN paper: training loss and sparsity of ResNet-20 on random labels',
    claim='Filters collapse on labels without structure too: the FLOPs sparsity grows with every '
    'round, until in the fifth the net no longer fits the data.',
    arms=arms_by_scale(
        'cifar/resnet20_psbn_cifar10_random_labels.py',
        dict(
            smoke=rounds('smoke', 2),
            small=rounds('small', 5, epochs=90, weight_decay=1e-3) | _FEW,
            paper=rounds('paper', 5),
        ),
        lambda scale: NORMS,
    ),
    read=read_rounds,
    table=ArmTable(
        'FLOPs sparsity % / dead / training loss after round',
        step='{flops_sparsity:.1p} / {dead} / {loss:.2f}',
    ),
    panels=[over_steps('round', _LOSS), over_steps('round', SPARSITY)],
    claims=_claims_of_random_labels,
)

# small: ResNet-20 for ResNet-110, S = 10 * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 a round at 0.2 where
# the paper's 40 epochs have 7.8
_ENSEMBLE_HOOK = dict(type='SnapshotEnsembleHook', num_snapshots=3)
_CYCLES = dict(
    smoke=rounds('smoke', 3),
    small=rounds('small', 5, epochs=10),
    paper=rounds('paper', 5, epochs=40) | {'model.backbone.depth': 110},
)
_ENSEMBLE = Quantity('top-1 of the ensemble, %', lambda arm: arm.ensemble, '.2f %', POINTS)


def _claims_of_snapshots(numbers: Numbers) -> dict[str, Verdict]:
    verdicts = {}
    for lr, psbn in grid(numbers)['psBN'].items():
        arms = numbers[f'BN, {lr}'], psbn
        verdicts |= {
            f"at LR {lr} psBN's ensemble is better": judge(grows, _ENSEMBLE, *arms, found=BOTH),
            f'at LR {lr} psBN keeps the FLOPs sparsity under a fifth': judge(
                under_a_fifth, SPARSITY, *arms, found=BOTH
            ),
        }
    return verdicts


PSBN_SNAPSHOT = Experiment(
    name='psbn-snapshot',
    shows='table 1 of the psBN paper: snapshot ensembles of ResNet-110, BN and psBN',
    claim='At LR 0.2 the ensemble of the last 3 of 5 snapshots has 94.86 % with psBN and 94.63 % '
    'with BN, the last net a FLOPs sparsity of 5.3 % and 31.6 %.',
    arms=arms_by_scale(
        CONFIG,
        {
            scale: cycles | {'custom_hooks': [*_HOOKS, _ENSEMBLE_HOOK]}
            for scale, cycles in _CYCLES.items()
        },
        lambda scale: {
            f'{norm}, {lr}': change | {'optim_wrapper.optimizer.lr': lr}
            for lr in ((0.2,) if scale == 'smoke' else (0.2, 0.1))
            for norm, change in NORMS.items()
        },
    ),
    read=read_rounds,
    table=ArmTable(
        'norm, LR: top-1 % / FLOPs sparsity % after round',
        step='{top1:.2f} / {flops_sparsity:.1p}',
        columns={'ensemble': '{ensemble:.2f}'},
    ),
    panels=[over_steps('round', SPARSITY), over_steps('round', TOP1)],
    claims=_claims_of_snapshots,
)
