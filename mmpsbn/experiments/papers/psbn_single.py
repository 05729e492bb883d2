"""The experiments of the psBN paper (arXiv 2001.11216) in which one round is enough."""

from collections.abc import Callable, Sequence
from functools import partial

from ..experiment import Arm, Experiment, Options, arms_by_scale
from ..measured import Numbers, Quantity, grid
from ..pictures import Lines, Panel, over_columns
from ..tables import ArmTable, GridTable
from ..verdicts import (
    SHARE,
    Verdict,
    falls,
    grows,
    judge,
    learnt_nothing,
    tell,
    under_a_fifth,
)
from .psbn import BOTH, CELL, CELLS, CONFIG, DEAD, NORMS, SPARSITY, TOP1, read_rounds, rounds


def _sweep(option: Callable[[float], Options], **values: Sequence[float]) -> dict[str, list[Arm]]:
    """BN and psBN at each of the ``values`` of a scale."""
    return arms_by_scale(
        CONFIG,
        {scale: rounds(scale) for scale in values},
        lambda scale: {
            f'{norm}, {value:g}': option(value) | change
            for norm, change in NORMS.items()
            for value in values[scale]
        },
    )


def _sweep_claims(setting: str, grow: dict[str, Quantity], numbers: Numbers) -> dict[str, Verdict]:
    """Over the values at which both nets learn; ``grow``: what is to grow with them."""
    lost = [name for name, arm in numbers.items() if learnt_nothing(arm)]
    rows = grid({name: arm for name, arm in numbers.items() if name not in lost})
    values = [value for value in rows.get('BN', {}) if value in rows.get('psBN', {})]
    left_out = f' (no better than a guess: {"; ".join(lost)})' if lost else ''
    if len(values) < 2:
        return {'the claim': Verdict(f'fewer than two values to compare{left_out}', None)}
    bn, psbn = ([rows[norm][value] for value in values] for norm in NORMS)
    found = f'{{course}} at {setting} {", ".join(values)}{left_out}'
    grown = {
        f'{what} grows under BN': judge(grows, of, *bn, found=found) for what, of in grow.items()
    }
    last = judge(under_a_fifth, SPARSITY, bn[-1], psbn[-1], found=BOTH)
    return grown | {'psBN keeps the FLOPs sparsity under a fifth at the last value': last}


_DEAD_GROW = {'the share of dead channels': DEAD}

# small: S = 3.9 at 0.1 and 39 at 1.0, the paper's 9.8 and 98
PSBN_LR = Experiment(
    name='psbn-lr',
    shows='figure 5a of the psBN paper: sparsity of ResNet-20 against the learning rate',
    claim='The larger the learning rate, the more filters collapse under BN.',
    arms=_sweep(
        lambda lr: {'optim_wrapper.optimizer.lr': lr},
        smoke=(0.1, 1.0),
        small=(0.1, 0.3, 1.0),
        paper=(0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    ),
    read=read_rounds,
    table=GridTable(f'{CELLS} at LR', CELL),
    panels=[over_columns('learning rate', SPARSITY), over_columns('learning rate', TOP1)],
    claims=partial(_sweep_claims, 'LR', {'the FLOPs sparsity': SPARSITY} | _DEAD_GROW),
)

_CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu')
# Which values figure 5b has cannot be read from the text. small: S = 3.9 takes a gamma of 1, 0.2
# and 0.04 to 0.02, 4e-3 and 8e-4: only from the last a filter that dies early can be counted as
# collapsed, so the growth is judged by the dead.
PSBN_GAMMA_INIT = Experiment(
    name='psbn-gamma-init',
    shows='figure 5b of the psBN paper: sparsity of ResNet-20 against the initial gamma',
    claim='The smaller gamma begins, the more filters die and collapse under BN in one round.',
    arms=_sweep(
        lambda gamma: {
            'model.backbone.init_cfg': [_CONVOLUTIONS, dict(type='NormAffine', gamma=gamma)]
        },
        smoke=(1.0, 0.1),
        small=(1.0, 0.2, 0.04),
        paper=(1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    ),
    read=read_rounds,
    table=GridTable(f'{CELLS} at initial gamma', CELL),
    panels=[over_columns('initial gamma', SPARSITY), over_columns('initial gamma', TOP1)],
    claims=partial(_sweep_claims, 'initial gamma', _DEAD_GROW),
)

# The paper finetunes on COCO only. Here: five classes of CIFAR-10, then all ten with a new head,
# so that the task changes and the pictures do not, at the full learning rate again and, for
# comparison, at a tenth. small: S = 3.8, then 5.0 (0.5 at a tenth); paper: its rounds on CIFAR-10
_EPOCHS = dict(smoke=(1, 1), small=(24, 32), paper=(100, 100))
_FIVE = {'model.head.num_classes': 5} | {
    f'{split}_dataloader.dataset.num_classes': 5 for split in ('train', 'val', 'test')
}
_FINETUNED = {
    f'{before} on five -> {after}, {lr}': (f'{before} on five', after, lr)
    for before, after, lr in (
        ('BN', 'BN', 0.1),
        ('BN', 'BN', 0.01),
        ('BN', 'psBN', 0.1),
        ('psBN', 'psBN', 0.1),
    )
}


def _finetune_arms(scale: str) -> list[Arm]:
    first, second = _EPOCHS[scale]
    five = rounds(scale, epochs=first) | _FIVE
    return [
        *(Arm(f'{norm} on five', CONFIG, five | change) for norm, change in NORMS.items()),
        *(
            Arm(name, CONFIG, rounds(scale, epochs=second, lr=lr) | NORMS[norm], pretrained)
            for name, (pretrained, norm, lr) in _FINETUNED.items()
        ),
    ]


def _over_stages(y: Quantity) -> Panel:
    def lines(numbers: Numbers) -> Lines:
        return {
            name: [(1, y.drawn(numbers[pretrained])), (2, y.drawn(numbers[name]))]
            for name, (pretrained, *_) in _FINETUNED.items()
        }

    return Panel('stage: pretrained, finetuned', y.label, lines, 'count')


_COLLAPSED = Quantity('', lambda arm: arm.collapsed / arm.channels, '.1%', SHARE)


def _finetune_claims(numbers: Numbers) -> dict[str, Verdict]:
    arms = [numbers[name] for name in ('BN on five', *_FINETUNED)]
    before, bn, _, switched, psbn = (arm.flops_sparsity for arm in arms)
    return {
        'finetuning at the full rate collapses filters under BN': judge(
            grows,
            SPARSITY,
            *arms[:2],
            found='FLOPs sparsity {0} pretrained, {1} finetuned at LR 0.1',
        ),
        'more channels die than at a tenth of the rate': judge(
            lambda dead, margin: falls(dead[1:], margin),
            DEAD,
            *arms[:3],
            found='dead {0} pretrained, {1} and {2} finetuned',
        ),
        # not the dead: a psBN channel with gamma and beta at 0 emits alpha, and is none of them
        "psBN from a BN net keeps the collapsed under a fifth of BN's": judge(
            lambda collapsed, margin: under_a_fifth(collapsed[1:4:2], margin),
            _COLLAPSED,
            *arms,
            found='{3} of {1} (psBN from psBN {4})',
        ),
        'it keeps the rise of the FLOPs sparsity under a fifth': tell(
            f'{switched:.1%} finetuned, a rise by {switched - before:.1%} of {bn - before:.1%} '
            f'(psBN from psBN {psbn:.1%})',
            under_a_fifth([bn - before, switched - before], SHARE),
            *arms,
        ),
    }


PSBN_FINETUNE = Experiment(
    name='psbn-finetune',
    shows='section 5.3 of the psBN paper on CIFAR-10: pretrained on five classes, finetuned on ten',
    claim='The sudden rise of the learning rate when a net is finetuned collapses filters under '
    'BN, and psBN avoids it.',
    arms={scale: _finetune_arms(scale) for scale in _EPOCHS},
    read=read_rounds,
    table=ArmTable(
        'pretrained -> finetuned, LR',
        {
            'FLOPs sparsity, %': '{flops_sparsity:.1p}',
            'collapsed': '{collapsed} of {channels}',
            'dead': '{dead} of {prunable}',
            'top-1, %': '{top1:.1f}',
        },
    ),
    panels=[_over_stages(SPARSITY), _over_stages(DEAD)],
    claims=_finetune_claims,
)
