"""Tables and pictures of numbers written by hand."""

import pytest
from numbers_by_hand import NUMBERS, measured

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.measured import Measured, grid
from mmpsbn.experiments.pictures import Panel, draw
from mmpsbn.experiments.tables import GridTable, markdown


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
        (
            'finetune-tradeoff',
            'method, MACs asked for in %|mAP|+-|MACs left, %|parameters, %|ONNX Runtime time, %|'
            'training, s',
            {
                0: 'before finetuning, 100|0.375||100.0|50.0|110|100',
                1: 'dense, 100|0.400|0.010|100.0|50.0|110|120',
                3: 'the one line, 25|0.360|0.010|25.0|12.5|35|100',
            },
        ),
    ],
)  # fmt: skip
def test_the_table(name, head, rows):
    first, *lines = EXPERIMENTS[name].table.lines(measured(NUMBERS[name]))
    assert '|'.join(first) == head
    for number, row in rows.items():
        assert '|'.join(lines[number]) == row


# experiment -> an arm or row, then each panel: what its axes say, the points of that arm or row
SHARE, TOP1, STAGE = 'FLOPs sparsity, %', 'top-1 accuracy, %', 'stage: pretrained, finetuned'
SMALL = 'filters with |gamma| < 1e-3, %'
PICTURES = {
    'psbn-rounds': (
        'BN + ReLU',
        ('round', SHARE, [(1, 0), (2, 10), (3, 30)]),
        ('round', TOP1, [(1, 80), (2, 79), (3, 77.04)]),
    ),
    'psbn-random-labels': (
        'psBN',
        ('round', 'training loss', [(1, 0.75), (2, 0.25)]),
        ('round', SHARE, [(1, 0), (2, 0.4)]),
    ),
    'psbn-lr': (
        'BN',
        ('learning rate', SHARE, [(0.1, 1), (1, 50)]),
        ('learning rate', TOP1, [(0.1, 80), (1, 60)]),
    ),
    'psbn-finetune': (
        'BN on five -> psBN, 0.1',
        (STAGE, SHARE, [(1, 10), (2, 6)]),
        (STAGE, 'dead channels, %', [(1, 20), (2, 5)]),
    ),
    'implicit-optimizers': (
        'Adam L2',
        ('decay lambda', SMALL, [(1e-4, 70), (1e-3, 83)]),  # a logarithmic axis has no 0
        (SMALL, 'test error, %', [(83, 13.1), (70, 10.5), (0, 11)]),
    ),
    'implicit-prune': (
        'VGG-16, batch 40',
        ('convolution', 'filters removed, %', [(1, 25), (2, 50), (3, 75)]),
    ),
    'bn-only': (
        'BN',
        ('depth', TOP1, [(14, 48), (56, 65)]),
        ('depth', '|gamma| < 0.01, % of channels', [(14, 30), (56, 25)]),
        ('depth', 'ReLUs off, %', [(14, 28), (56, 30)]),
    ),
    'demp-tradeoff': (
        'SGDM',
        ('weight sparsity, %', TOP1, [(0, 90), (60, 89.5), (85, 89), (90, 85)]),
        ('weight sparsity, %', 'last step, times faster than dense',
         [(0, 1), (60, 1.25), (85, 2), (90, 2.5)]),
    ),
    'finetune-tradeoff': (
        'the one line',
        ('MACs left, %', 'COCO mAP', [(50, 0.39), (25, 0.36)]),
        ('MACs left, %', 'time left in ONNX Runtime, %', [(50, 60), (25, 35)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', PICTURES)
def test_the_picture(name):
    label, *panels = PICTURES[name]
    drawn = draw(EXPERIMENTS[name].panels, measured(NUMBERS[name])).axes
    for axes, (x, y, points) in zip(drawn, panels, strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel()) == (x, y)
        (line,) = (line for line in axes.lines if line.get_label() == label)
        assert line.get_xydata().tolist() == [pytest.approx(point) for point in points]


@pytest.mark.parametrize(
    'name, labels',
    [
        ('psbn-snapshot', ['BN, 0.2', 'psBN, 0.2']),
        ('psbn-finetune', [arm for arm in NUMBERS['psbn-finetune'] if '->' in arm]),
        ('implicit-batch-size', ['L2 0.001']),
    ],
)
def test_each_arm_or_row_is_a_line(name, labels):
    for axes in draw(EXPERIMENTS[name].panels, measured(NUMBERS[name])).axes:
        assert [line.get_label() for line in axes.lines] == labels


@pytest.mark.parametrize('name', ['psbn-rounds', 'psbn-random-labels', 'psbn-lr', 'psbn-snapshot'])
def test_a_loss_that_is_no_number_has_a_table_and_a_picture(name):
    experiment = EXPERIMENTS[name]
    numbers = measured(
        {arm: n | dict(loss=[None for _ in n['loss']]) for arm, n in NUMBERS[name].items()}
    )
    assert len(experiment.table.lines(numbers)) > 1
    draw(experiment.panels, numbers)
    assert experiment.claims(numbers)


def lines_of(lines):
    return lambda numbers: lines


def test_a_logarithmic_axis_has_the_values_that_were_run():
    lines = {'a': [(14, 1), (0, 1), (56, 2)], 'b': [(32, 1)]}
    (axes,) = draw([Panel('x', 'y', lines_of(lines), 'log')], {}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ['14', '32', '56']
    assert axes.get_xticks().tolist() == [14, 32, 56] and not len(axes.get_xticks(minor=True))


def test_a_line_has_one_look_in_all_panels_and_no_two_the_same():
    lines = {str(number): [(1, number), (2, number)] for number in range(13)}
    later = dict(list(lines.items())[5:])
    panels = [Panel('x', 'y', lines_of(drawn)) for drawn in (lines, later)]
    left, right = draw(panels, {}).axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in left.lines}
    assert len(set(looks.values())) == 13
    for line in right.lines:
        assert looks[line.get_label()] == (line.get_color(), line.get_linestyle())


def test_a_table_in_markdown():
    table = markdown(('|a|', 'b'), ('x', '1'))
    assert table == '| \\|a\\| | b |\n| --- | ---: |\n| x | 1 |'


def test_a_grid_has_the_rows_and_columns_of_its_arms():
    numbers = measured({'r, s, 10': dict(n=1), 'r, s, 2': dict(n=2), 't, 2': dict(n=3)})
    rows = {
        row: {column: arm.n for column, arm in arms.items()} for row, arms in grid(numbers).items()
    }
    assert rows == {'r, s': {'10': 1, '2': 2}, 't': {'2': 3}}
    lines = GridTable('corner', '{n}').lines(numbers)
    assert lines == [('corner', '2', '10'), ('r, s', '2', '1'), ('t', '3', '')]


def test_an_arm_has_its_last_numbers_and_those_of_each_step():
    arm = Measured('arm', dict(top1=[1, 2], dead=[3, None], classes=10))
    assert (arm.name, arm.top1, arm.dead, arm.classes) == ('arm', 2, None, 10)
    assert [(step.top1, step.dead, step.classes) for step in arm.steps] == [
        (1, 3, 10),
        (2, None, 10),
    ]
    assert Measured('arm', dict(top1=1)).steps == []
