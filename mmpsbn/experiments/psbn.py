"""The experiments of the psBN paper (arXiv 2001.11216) over several rounds."""

import math
from collections.abc import Sequence
from dataclasses import replace

from .experiment import Arm, Experiment
from .rounds import (
    CONFIG,
    NORMS,
    PAPER,
    SMALL,
    SMOKE,
    net,
    read_rounds,
    round_panel,
    round_panels,
    tabulate_rounds,
)
from .tables import Numbers, Table, grid, number
from .verdicts import POINTS, SHARE, Finding, falls, grows, more, no_less, tell, under_a_fifth

# figure 3
_LEAKY = {'model.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=0.01, inplace=True)}
_ROUNDS = dict(
    smoke=replace(SMOKE, rounds=2),
    small=replace(SMALL, rounds=5, epochs=15),
    paper=replace(PAPER, rounds=9),
)
_ROUND_ARMS = {'BN + ReLU': {}, 'BN + Leaky ReLU': _LEAKY, 'psBN + ReLU': NORMS['psBN']}


def _round_arms(scale: str) -> Sequence[Arm]:
    schedule = _ROUNDS[scale].options() | net(scale)
    return [Arm(name, CONFIG, schedule | change) for name, change in _ROUND_ARMS.items()]


def _judge_rounds(numbers: Numbers) -> list[Finding]:
    bn, leaky, psbn = (numbers[name]['flops_sparsity'] for name in _ROUND_ARMS)
    top1 = [numbers[name]['top1'][-1] for name in ('psBN + ReLU', 'BN + ReLU')]
    ends = f'FLOPs sparsity {psbn[-1]:.1%} with psBN, {bn[-1]:.1%} with BN'
    return [
        tell(
            'the FLOPs sparsity grows with every round under BN',
            ', '.join(f'{share:.1%}' for share in bn),
            grows(bn, SHARE),
            numbers,
            ['BN + ReLU'],
        ),
        tell(
            'Leaky ReLU changes it by less than a half',
            f'{leaky[-1]:.1%} in the end',
            None if bn[-1] < 2 * SHARE else abs(leaky[-1] - bn[-1]) < bn[-1] / 2,
            numbers,
            ['BN + ReLU', 'BN + Leaky ReLU'],
        ),
        tell(
            'psBN keeps it under a fifth',
            ends,
            under_a_fifth(psbn[-1], bn[-1]),
            numbers,
            ['BN + ReLU', 'psBN + ReLU'],
        ),
        tell(
            'psBN is no less accurate',
            '{:.1f} % with psBN, {:.1f} % with BN'.format(*top1),
            no_less(*top1, POINTS),
            numbers,
            ['BN + ReLU', 'psBN + ReLU'],
        ),
        tell(
            'the accuracy falls under BN as filters collapse',
            ', '.join(f'{points:.1f} %' for points in numbers['BN + ReLU']['top1']),
            falls(numbers['BN + ReLU']['top1'], POINTS),
            numbers,
            ['BN + ReLU'],
        ),
    ]


PSBN_ROUNDS = Experiment(
    name='psbn-rounds',
    shows='figure 3 of the psBN paper: sparsity and accuracy of ResNet-20 over warm restarts',
    claim='With BN and ReLU the FLOPs sparsity grows with every round, Leaky ReLU changes little, '
    'psBN keeps it near 0 and with it the accuracy, which BN loses.',
    arms=_round_arms,
    read=read_rounds,
    tabulate=tabulate_rounds,
    panels=round_panels,
    judge=_judge_rounds,
)


# figure 2. small: 2,000 images that are not augmented, so that so few steps can fit them (5,000 of
# them BN does not fit in a round), and half the decay; S = 32 * 90 steps * 0.05 * 1e-3 / 0.1 =
# 1.4 a round, 7.2 in all
_RANDOM_CONFIG = 'cifar/resnet20_psbn_cifar10_random_labels.py'
_RANDOM = dict(
    smoke=replace(SMOKE, rounds=2),
    small=replace(SMALL, rounds=5, epochs=90, weight_decay=1e-3),
    paper=replace(PAPER, rounds=5),
)
_FEW = {
    'train_dataloader.dataset.dataset.num_samples': 2_000,
    'data_preprocessor.padding': 0,
    'data_preprocessor.flip_prob': 0.0,
}


def _random_arms(scale: str) -> Sequence[Arm]:
    options = _RANDOM[scale].options() | net(scale) | (_FEW if scale == 'small' else {})
    return [Arm(name, _RANDOM_CONFIG, options | norm) for name, norm in NORMS.items()]


def _judge_random(numbers: Numbers) -> list[Finding]:
    bn, psbn = numbers['BN'], numbers['psBN']
    last, loss = bn['flops_sparsity'][-1], bn['loss']
    # a net that has fitted the data and loses it again ends as one that never did
    best, best_of_psbn = (min(filter(None, arm['loss']), default=math.inf) for arm in (bn, psbn))
    fitted = best < 1
    dead = [count / bn['prunable'] for count in bn['dead'] if count is not None]
    return [
        Finding(
            'the FLOPs sparsity grows with every round under BN',
            ', '.join(f'{share:.1%}' for share in bn['flops_sparsity']),
            grows(bn['flops_sparsity'], SHARE) if fitted else None,
        ),
        Finding(
            'and so does the share of dead channels',
            ', '.join(f'{share:.1%}' for share in dead),
            grows(dead, SHARE) if fitted and dead else None,
        ),
        Finding(
            'in the last round BN no longer fits the data',
            f'loss {best:.2f} in its best round, {number(loss[-1], ".2f")} in the last',
            loss[-1] > best + 0.5 if fitted and loss[-1] is not None else None,
        ),
        Finding(
            'psBN keeps it under a fifth',
            f'{psbn["flops_sparsity"][-1]:.1%}, loss {best_of_psbn:.2f} in its best round',
            under_a_fifth(psbn['flops_sparsity'][-1], last) if best_of_psbn < 1 else None,
        ),
    ]


PSBN_RANDOM_LABELS = Experiment(
    name='psbn-random-labels',
    shows='figure 2 of the psBN paper: training loss and sparsity of ResNet-20 on random labels',
    claim='Filters collapse on labels without structure too: the FLOPs sparsity grows with every '
    'round, until in the fifth the net no longer fits the data.',
    arms=_random_arms,
    read=read_rounds,
    tabulate=lambda numbers: tabulate_rounds(
        numbers,
        lambda arm, at: (
            f'{100 * arm["flops_sparsity"][at]:.1f} / {number(arm["dead"][at], "d")} / '
            f'{number(arm["loss"][at], ".2f")}'
        ),
        'FLOPs sparsity % / dead / training loss',
    ),
    panels=lambda numbers: [
        round_panel(numbers, 'loss', 'training loss'),
        round_panel(numbers, 'flops_sparsity', 'FLOPs sparsity, %', 100),
    ],
    judge=_judge_random,
)


# table 1. small: ResNet-20 for ResNet-110, S = 10 * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 a round at
# 0.2 where the paper's 40 epochs have 7.8
_CYCLES = dict(
    smoke=replace(SMOKE, rounds=3),
    small=replace(SMALL, rounds=5, epochs=10),
    paper=replace(PAPER, rounds=5, epochs=40),
)


def _snapshot_arms(scale: str) -> Sequence[Arm]:
    depth = {} if scale != 'paper' else dict(depth=110)
    ensemble = dict(type='SnapshotEnsembleHook', num_snapshots=3)
    return [
        Arm(
            f'{norm}, {lr}',
            CONFIG,
            replace(_CYCLES[scale], lr=lr).options(ensemble) | net(scale, **depth) | NORMS[norm],
        )
        for lr in ((0.2,) if scale == 'smoke' else (0.2, 0.1))
        for norm in NORMS
    ]


def _tabulate_snapshots(numbers: Numbers) -> Table:
    table = tabulate_rounds(
        numbers,
        lambda arm, at: f'{arm["top1"][at]:.2f} / {100 * arm["flops_sparsity"][at]:.1f}',
        'norm, LR: top-1 % / FLOPs sparsity %',
    )
    rows = [(*row, f'{arm["ensemble"]:.2f}') for row, arm in zip(table.rows, numbers.values())]
    return Table((*table.head, 'ensemble'), rows)


def _judge_snapshots(numbers: Numbers) -> list[Finding]:
    found = []
    for lr, psbn in grid(numbers)['psBN'].items():
        arms = [f'BN, {lr}', f'psBN, {lr}']
        bn = numbers[arms[0]]
        shares = psbn['flops_sparsity'][-1], bn['flops_sparsity'][-1]
        found += [
            tell(
                f"at LR {lr} psBN's ensemble is better",
                f'{psbn["ensemble"]:.2f} % with psBN, {bn["ensemble"]:.2f} % with BN',
                more(psbn['ensemble'], bn['ensemble'], POINTS),
                numbers,
                arms,
            ),
            tell(
                f'at LR {lr} psBN keeps the FLOPs sparsity under a fifth',
                '{:.1%} with psBN, {:.1%} with BN'.format(*shares),
                under_a_fifth(*shares),
                numbers,
                arms,
            ),
        ]
    return found


PSBN_SNAPSHOT = Experiment(
    name='psbn-snapshot',
    shows='table 1 of the psBN paper: snapshot ensembles of ResNet-110, BN and psBN',
    claim='At LR 0.2 the ensemble of the last 3 of 5 snapshots has 94.86 % with psBN and 94.63 % '
    'with BN, the last net a FLOPs sparsity of 5.3 % and 31.6 %.',
    arms=_snapshot_arms,
    read=read_rounds,
    tabulate=_tabulate_snapshots,
    panels=round_panels,
    judge=_judge_snapshots,
)
