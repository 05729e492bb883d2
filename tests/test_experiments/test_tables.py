"""Tables and pictures of numbers written by hand."""

import pytest
from numbers_by_hand import NUMBERS

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.pictures import Panel, draw
from mmpsbn.experiments.tables import Table, grid, grid_table


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
            'FLOPs sparsity % / dead / training loss after round|1|2',
            {0: 'BN|1.0 / 0 / 0.50|20.0 / 10 / 1.75', 1: 'psBN|0.0 / 0 / 0.75|0.4 / 10 / 0.25'},
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
            {2: 'BN on five -> BN, 0.1|40.0|40 of 200|50 of 100|80.0'},
        ),
        (
            'implicit-optimizers',
            '% inactive by activation / by gamma / test error % at decay|0|0.0001|0.001',
            {
                0: 'SGD L2||0 / 0 / 11.8|28 / 27 / 21.8',
                2: 'Adam WD||40 / 40 / 11.2|',
            },
        ),
        (
            'implicit-batch-size',
            '% inactive by gamma / test error % / training loss at batch size|20|80',
            {0: 'L2 0.001|85 / 15.2 / 0.25|80 / 12.2 / 0.25'},
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
            '%, at depth|14|56',
            {1: 'BN|48.0 / 30, 40, 50 / +0.0, -1.0, -9.0 / 28|65.0 / 25, 40, 50 / +0.2, -1.0, '
             '-4.0 / 30'},
        ),
        (
            'demp-tradeoff',
            'optimizer, peak of the penalty|top-1, %|weights removed, %|channels, %|FLOPs, %|'
            'training, s|last step, faster than dense',
            {2: 'SGDM, 0.004|89.0|85.0|42.5|21.2|100|2.00x'},
        ),
    ],
)  # fmt: skip
def test_the_table(name, head, rows):
    table = EXPERIMENTS[name].tabulate(NUMBERS[name])
    assert '|'.join(table.head) == head
    for number, row in rows.items():
        assert '|'.join(table.rows[number]) == row


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
                {'BN': [(1, 0.5), (2, 1.75)], 'psBN': [(1, 0.75), (2, 0.25)]},
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
                {'SGDM': [(0, 90), (60, 89.5), (85, 89), (90, 85)]},
                {'SGDM': [(0, 1), (60, 1.25), (85, 2), (90, 2.5)]},
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


def test_a_logarithmic_axis_has_the_values_that_were_run():
    (axes,) = draw([Panel('x', 'y', {'a': [(14, 1), (56, 2)], 'b': [(32, 1)]}, 'log')]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ['14', '32', '56']
    assert axes.get_xticks().tolist() == [14, 32, 56] and not len(axes.get_xticks(minor=True))


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
    assert table == Table(('corner', '1', '2'), [('r, s', '2', '1'), ('t', '3', '')])
