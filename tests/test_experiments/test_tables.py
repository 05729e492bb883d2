"""Tables, verdicts and pictures of numbers written by hand."""

import pytest

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.pictures import Panel, draw
from mmpsbn.experiments.tables import Table, grid, grid_table


def rounds(sparsity, top1, *, loss=None, dead=None, **more):
    count = len(sparsity)
    return dict(
        flops_sparsity=sparsity,
        top1=top1,
        loss=loss or [0.5] * count,
        collapsed=list(range(count)),
        channels=200,
        dead=dead or [10 * at for at in range(count)],
        prunable=100,
        **more,
    )


def inactive(collapsed, error, dead=0.0, **more):
    return dict(collapsed=collapsed, error=error, dead=dead, loss=0.25, **more)


def bn_only(top1, small, change, relus):
    keys = ('0.01', '0.05', '0.1')
    return dict(
        top1=top1,
        small_gammas=dict(zip(keys, small)),
        change_clamped=dict(zip(keys, change)),
        mostly_zero=relus,
    )


def demp(top1, seconds, weights):
    removed = dict(weights=weights, channels=weights / 2, macs=weights / 4)
    return dict(top1=top1, train_seconds=seconds, removed=removed)


ROUNDS = {
    'BN + ReLU': rounds([0.0, 0.1, 0.3], [80.0, 79.0, 77.04]),
    'BN + Leaky ReLU': rounds([0.0, 0.1, 0.2], [80.0, 79.5, 78.0]),
    'psBN + ReLU': rounds([0.0, 0.0, 0.03], [79.0, 80.0, 81.0]),
}
RANDOM = {
    'BN': rounds([0.01, 0.2], [10.0, 10.0], loss=[1.5, 1.75]),
    'psBN': rounds([0.0, 0.004], [10.0, 10.0], loss=[1.5, 1.25]),
}
SWEEP = {
    'BN, 0.1': rounds([0.01], [80.0]),
    'BN, 1': rounds([0.5], [60.0]),
    'psBN, 0.1': rounds([0.0], [80.0]),
    'psBN, 1': rounds([0.25], [70.0]),
}
SNAPSHOT = {
    'BN, 0.2': rounds([0.0, 0.25], [80.0, 81.0], ensemble=82.0),
    'psBN, 0.2': rounds([0.0, 0.05], [79.0, 82.0], ensemble=83.5),
}
FINETUNE = {
    'BN on five': rounds([0.1], [90.0], dead=[20]),
    'psBN on five': rounds([0.0], [90.0], dead=[0]),
    'BN on five -> BN, 0.1': rounds([0.4], [80.0], dead=[50]),
    'BN on five -> BN, 0.01': rounds([0.2], [79.0], dead=[20]),
    'BN on five -> psBN, 0.1': rounds([0.06], [81.0], dead=[5]),
    'psBN on five -> psBN, 0.1': rounds([0.0], [82.0], dead=[1]),
}
OPTIMIZERS = {
    'SGD L2, 0.001': inactive(0.27, 21.8, dead=0.28),
    'SGD L2, 0.0001': inactive(0.0, 11.8),
    'Adam L2, 0.001': inactive(0.83, 13.1, dead=0.85),
    'Adam L2, 0.0001': inactive(0.7, 10.5, dead=0.71),
    'Adam L2, 0': inactive(0.0, 11.0, dead=0.03),
    'Adam WD, 0.0001': inactive(0.4, 11.2, dead=0.4),
}
BATCHES = {
    'L2 0.001, 80': inactive(0.8, 12.2),
    'L2 0.001, 20': inactive(0.82, 15.2),
}
PRUNED = {
    'Adam L2 0.001': inactive(
        0.75, 13.1, by_layer=[0.5, 1.0], weights_removed=0.97, error_after=13.5
    ),
    'VGG-16, batch 40': inactive(
        0.5, 7.2, by_layer=[0.25, 0.5, 0.75], weights_removed=0.9, error_after=7.2
    ),
}
BN_ONLY = {
    'all, 56': bn_only(90.0, (0.05, 0.1, 0.2), (0.0, -0.5, -2.0), 0.02),
    'BN, 56': bn_only(65.0, (0.25, 0.4, 0.5), (0.25, -1.0, -4.0), 0.3),
    'all, 14': bn_only(88.0, (0.04, 0.1, 0.2), (0.0, 0.0, 0.0), 0.01),
    'BN, 14': bn_only(48.0, (0.3, 0.4, 0.5), (0.0, -1.0, -9.0), 0.28),
}
DEMP = {
    'SGDM, dense': demp(90.0, 100.0, 0.0),
    'SGDM, 0.001': demp(89.5, 80.0, 0.6),
    'SGDM, 0.004': demp(89.0, 50.0, 0.8),
    'SGDM, 0.01': demp(85.0, 40.0, 0.9),
}
NUMBERS = {
    'psbn-rounds': ROUNDS,
    'psbn-random-labels': RANDOM,
    'psbn-lr': SWEEP,
    'psbn-gamma-init': SWEEP,
    'psbn-snapshot': SNAPSHOT,
    'psbn-finetune': FINETUNE,
    'implicit-optimizers': OPTIMIZERS,
    'implicit-batch-size': BATCHES,
    'implicit-prune': PRUNED,
    'bn-only': BN_ONLY,
    'demp-tradeoff': DEMP,
}


def changed(numbers, **changes):
    """The same values for all arms."""
    return {name: arm | changes for name, arm in numbers.items()}


def test_every_experiment_has_numbers_here():
    assert set(NUMBERS) == set(EXPERIMENTS)


@pytest.mark.parametrize(
    'name, head, rows',
    [
        (
            'psbn-rounds',
            'FLOPs sparsity % / collapsed / dead / top-1 % after round|1|2|3',
            {0: 'BN + ReLU|0.0 / 0 / 0 / 80.0|10.0 / 1 / 10 / 79.0|30.0 / 2 / 20 / 77.0'},
        ),
        (
            'psbn-random-labels',
            'FLOPs sparsity % / training loss after round|1|2',
            {0: 'BN|1.0 / 1.50|20.0 / 1.75', 1: 'psBN|0.0 / 1.50|0.4 / 1.25'},
        ),
        (
            'psbn-lr',
            'FLOPs sparsity % / collapsed / dead / top-1 % at LR|0.1|1',
            {1: 'psBN|0.0 / 0 / 0 / 80.0|25.0 / 0 / 0 / 70.0'},
        ),
        (
            'psbn-snapshot',
            'norm, LR: top-1 % / FLOPs sparsity % after round|1|2|ensemble',
            {1: 'psBN, 0.2|79.00 / 0.0|82.00 / 5.0|83.50'},
        ),
        (
            'psbn-finetune',
            'pretrained -> finetuned, LR|FLOPs sparsity, %|collapsed|dead|top-1, %',
            {2: 'BN on five -> BN, 0.1|40.0|0 of 200|50 of 100|80.0'},
        ),
        (
            'implicit-optimizers',
            '% inactive by activation / by gamma / test error % at decay|0.001|0.0001|0',
            {
                0: 'SGD L2|28 / 27 / 21.8|0 / 0 / 11.8|',
                2: 'Adam WD||40 / 40 / 11.2|',
            },
        ),
        (
            'implicit-batch-size',
            '% inactive by gamma / test error % / training loss at batch size|80|20',
            {0: 'L2 0.001|80 / 12.2 / 0.25|82 / 15.2 / 0.25'},
        ),
        (
            'implicit-prune',
            '% filters removed of|C1|C2|C3|all|weights|test error, %|after',
            {
                0: 'Adam L2 0.001|50|100||75|97|13.10|13.50',
                1: 'VGG-16, batch 40|25|50|75|50|90|7.20|7.20',
            },
        ),
        (
            'bn-only',
            'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / ReLUs off '
            '%, at depth|56|14',
            {1: 'BN|65.0 / 25, 40, 50 / +0.2, -1.0, -4.0 / 30|48.0 / 30, 40, 50 / +0.0, -1.0, '
             '-9.0 / 28'},
        ),
        (
            'demp-tradeoff',
            'optimizer, peak of the penalty|top-1, %|weights removed, %|channels, %|FLOPs, %|'
            'training, s|faster than dense',
            {2: 'SGDM, 0.004|89.0|80.0|40.0|20.0|50|2.00x'},
        ),
    ],
)  # fmt: skip
def test_the_table(name, head, rows):
    table = EXPERIMENTS[name].tabulate(NUMBERS[name])
    assert '|'.join(table.head) == head
    for number, row in rows.items():
        assert '|'.join(table.rows[number]) == row


@pytest.mark.parametrize(
    'name, numbers, said',
    [
        ('psbn-rounds', ROUNDS, ['BN 30.0%', "0.10 of BN's", 'holds here (under a fifth)']),
        (
            'psbn-rounds',
            ROUNDS | {'psBN + ReLU': rounds([0.06], [80.0])},
            ["0.20 of BN's", 'does not hold here'],
        ),
        ('psbn-rounds', changed(ROUNDS, flops_sparsity=[0.0]), ['which cannot show the claim']),
        (
            'psbn-random-labels',
            RANDOM,
            ['BN 1.0% after the first', '20.0%', 'it grows holds', '1.50 in', '1.75 in the last',
             'lost again holds', 'psBN 0.4%'],
        ),
        (
            'psbn-random-labels',
            changed(RANDOM, flops_sparsity=[0.2, 0.1], loss=[2.0, 1.0]),
            ['it grows does not hold', 'lost again does not hold'],
        ),
        ('psbn-random-labels', changed(RANDOM, flops_sparsity=[0.0, 0.0]), ['cannot show']),
        (
            'psbn-lr',
            SWEEP,
            ['1.0% at LR 0.1, 50.0% at 1', 'grows holds here', 'psBN at 1 25.0%', "0.50 of BN's",
             'stops it does not hold'],
        ),
        ('psbn-gamma-init', changed(SWEEP, flops_sparsity=[0.0]), ['gamma 0.1', 'cannot show']),
        ('psbn-snapshot', SNAPSHOT, ['83.50 % with psBN, 82.00 % with BN', 'better holds',
                                     '5.0% and 25.0%']),
        ('psbn-snapshot', changed(SNAPSHOT, ensemble=80.0), ['better does not hold']),
        ('psbn-finetune', FINETUNE, ['10.0% pretrained, 40.0% finetuned at LR 0.1 and 20.0% at '
                                     '0.01', 'BN net 6.0%, psBN from psBN 0.0%', "0.15 of BN's"]),
        ('implicit-optimizers', OPTIMIZERS, ['Adam L2 70%, SGD L2 0%, Adam WD 40%',
                                             'sparsest holds', 'without decay holds']),
        (
            'implicit-optimizers',
            OPTIMIZERS | {'Adam L2, 0': inactive(0.1, 11.0), 'SGD L2, 0.0001': inactive(0.9, 12)},
            ['SGD L2 90%', 'sparsest does not hold', 'without decay does not hold'],
        ),
        ('implicit-optimizers', changed(OPTIMIZERS, collapsed=0.0), ['cannot show the claim']),
        ('implicit-batch-size', BATCHES, ['82% inactive at batch 20, 80% at 80', 'fewer holds']),
        ('implicit-batch-size', changed(BATCHES, collapsed=0.5), ['fewer does not hold']),
        ('implicit-batch-size', changed(BATCHES, collapsed=0.0), ['cannot be seen at this scale']),
        ('implicit-prune', PRUNED, ['Adam L2 0.001: 97%', 'by +0.40 points at most', 'go holds']),
        ('implicit-prune', changed(PRUNED, error_after=14.0), ['+6.80', 'go does not hold']),
        ('implicit-prune', changed(PRUNED, weights_removed=0.0), ['cannot show the claim']),
        (
            'bn-only',
            BN_ONLY,
            ['48.0 % at depth 14, 65.0 % at 56', 'depth helps holds', '25% of channels against 5%',
             'more holds', '+0.2 points', 'expendable holds'],
        ),
        (
            'bn-only',
            BN_ONLY | {'BN, 56': bn_only(40.0, (0.02, 0, 0), (-3.0, 0, 0), 0)},
            ['helps does not hold', 'more does not hold', '-3.0', 'expendable does not hold'],
        ),
        ('bn-only', BN_ONLY | {'BN, 56': bn_only(50.0, (0, 0, 0), (0, 0, 0), 0)}, ['cannot show']),
        ('demp-tradeoff', DEMP, ['peak of 0.004 80% of the weights go for 1.0 points', '2.00x',
                                 'a point holds']),
        ('demp-tradeoff', DEMP | {'SGDM, 0.004': demp(89.5, 200.0, 0.8)}, ['0.50x', 'not hold']),
        ('demp-tradeoff', DEMP | {'SGDM, dense': demp(99.0, 1.0, 0.0)}, ['no pruned net is within',
                                                                         'does not hold']),
        ('demp-tradeoff', {name: demp(90.0, 1.0, 0.0) for name in DEMP}, ['nothing dies at this']),
    ],
)  # fmt: skip
def test_the_verdict(name, numbers, said):
    sentence = EXPERIMENTS[name].judge(numbers)
    for part in said:
        assert part in sentence


@pytest.mark.parametrize(
    'name, lines',
    [
        (
            'psbn-rounds',
            [
                {
                    'BN + ReLU': [(1, 0), (2, 10), (3, 30)],
                    'BN + Leaky ReLU': [(1, 0), (2, 10), (3, 20)],
                    'psBN + ReLU': [(1, 0), (2, 0), (3, 3)],
                },
                {
                    'BN + ReLU': [(1, 80), (2, 79), (3, 77.04)],
                    'BN + Leaky ReLU': [(1, 80), (2, 79.5), (3, 78)],
                    'psBN + ReLU': [(1, 79), (2, 80), (3, 81)],
                },
            ],
        ),
        (
            'psbn-random-labels',
            [
                {'BN': [(1, 1.5), (2, 1.75)], 'psBN': [(1, 1.5), (2, 1.25)]},
                {'BN': [(1, 1), (2, 20)], 'psBN': [(1, 0), (2, 0.4)]},
            ],
        ),
        (
            'psbn-lr',
            [
                {'BN': [(0.1, 1), (1, 50)], 'psBN': [(0.1, 0), (1, 25)]},
                {'BN': [(0.1, 80), (1, 60)], 'psBN': [(0.1, 80), (1, 70)]},
            ],
        ),
        (
            'psbn-finetune',
            [
                {
                    'BN on five -> BN, 0.1': [(1, 10), (2, 40)],
                    'BN on five -> BN, 0.01': [(1, 10), (2, 20)],
                    'BN on five -> psBN, 0.1': [(1, 10), (2, 6)],
                    'psBN on five -> psBN, 0.1': [(1, 0), (2, 0)],
                },
                {
                    'BN on five -> BN, 0.1': [(1, 20), (2, 50)],
                    'BN on five -> BN, 0.01': [(1, 20), (2, 20)],
                    'BN on five -> psBN, 0.1': [(1, 20), (2, 5)],
                    'psBN on five -> psBN, 0.1': [(1, 0), (2, 1)],
                },
            ],
        ),
        (
            'implicit-optimizers',
            [
                {
                    'SGD L2': [(1e-3, 27), (1e-4, 0)],
                    'Adam L2': [(1e-3, 83), (1e-4, 70)],  # a logarithmic axis has no 0
                    'Adam WD': [(1e-4, 40)],
                },
                {
                    'SGD L2': [(27, 21.8), (0, 11.8)],
                    'Adam L2': [(83, 13.1), (70, 10.5), (0, 11)],
                    'Adam WD': [(40, 11.2)],
                },
            ],
        ),
        (
            'implicit-prune',
            [
                {
                    'Adam L2 0.001': [(1, 50), (2, 100)],
                    'VGG-16, batch 40': [(1, 25), (2, 50), (3, 75)],
                }
            ],
        ),
        (
            'bn-only',
            [
                {'all': [(14, 88), (56, 90)], 'BN': [(14, 48), (56, 65)]},
                {'all': [(14, 4), (56, 5)], 'BN': [(14, 30), (56, 25)]},
                {'all': [(14, 1), (56, 2)], 'BN': [(14, 28), (56, 30)]},
            ],
        ),
        (
            'demp-tradeoff',
            [
                {'SGDM': [(0, 90), (60, 89.5), (80, 89), (90, 85)]},
                {'SGDM': [(0, 1), (60, 1.25), (80, 2), (90, 2.5)]},
            ],
        ),
    ],
)
def test_the_picture(name, lines):
    panels = EXPERIMENTS[name].panels(NUMBERS[name])
    axes = draw(panels).axes
    for a, panel, expected in zip(axes, panels, lines, strict=True):
        drawn = {line.get_label(): line.get_xydata().tolist() for line in a.lines}
        assert drawn == {
            label: [pytest.approx(point) for point in points] for label, points in expected.items()
        }
        assert (a.get_xlabel(), a.get_ylabel()) == (panel.x, panel.y)


def test_a_line_has_one_look_in_all_panels_and_no_two_the_same():
    lines = {str(number): [(1, number), (2, number)] for number in range(13)}
    later = dict(list(lines.items())[5:])
    left, right = draw([Panel('x', 'y', lines), Panel('x', 'y', later)]).axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in left.lines}
    assert len(set(looks.values())) == 13
    for line in right.lines:
        assert looks[line.get_label()] == (line.get_color(), line.get_linestyle())


def test_a_table_in_markdown():
    table = Table(('|a|', 'b'), [('x', '1')])
    assert table.markdown() == '| \\|a\\| | b |\n| --- | ---: |\n| x | 1 |'


def test_a_grid_has_the_rows_and_columns_of_its_arms():
    numbers = {'r, s, 2': dict(n=1), 'r, s, 1': dict(n=2), 't, 1': dict(n=3)}
    assert grid(numbers) == {'r, s': {'2': dict(n=1), '1': dict(n=2)}, 't': {'1': dict(n=3)}}
    table = grid_table('corner', numbers, lambda arm: str(arm['n']))
    assert table == Table(('corner', '2', '1'), [('r, s', '1', '2'), ('t', '', '3')])
