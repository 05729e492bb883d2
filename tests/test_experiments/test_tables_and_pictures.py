"""Numbers over seeds, and the tables and pictures of them, on numbers written by hand."""

import math

import pytest

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.pictures import Panel, against, draw, over_columns, over_stages, over_steps
from mmpsbn.experiments.tables import (
    ArmTable,
    GridTable,
    Measured,
    Spread,
    grid,
    markdown,
    over_seeds,
)


def measured(*seeds, start=None):
    return Measured(over_seeds(seeds), start)


@pytest.mark.parametrize(
    'values, spec, words',
    [
        ((3,), '', '3'),
        ((0.5,), '.1p', '50.0'),
        ((1.0, 2.0, 6.0), '.2f', '3.00 ± 2.65'),  # the sample's: sqrt((4 + 1 + 9) / 2)
        ((0.25, 0.75), '.0p', '50 ± 35'),
        ((1.0, 3.0), '+.1f', '+2.0 ± 1.4'),
        ((2, 4), '', '3.0 ± 1.4'),
        ((688, 688), '', '688'),  # how many there are is no measurement
        ((688.0, 688.0), '.1f', '688.0 ± 0.0'),
    ],
)
def test_a_number_over_its_seeds(values, spec, words):
    assert format(Spread(values), spec) == words


def test_numbers_are_joined_where_they_stand():
    first = dict(a=1, several=dict(x=1.0), steps=[1.0, None])
    second = dict(a=3, several=dict(x=2.0), steps=[2.0, 5.0])
    joined = over_seeds([first, second])
    assert joined == dict(
        a=Spread((1, 3)),
        several=dict(x=Spread((1.0, 2.0))),
        steps=[Spread((1.0, 2.0)), None],  # a mean of those that did not diverge would flatter
    )
    assert joined['a'].mean == 2 and joined['a'].std == pytest.approx(math.sqrt(2))
    with pytest.raises(ValueError, match='argument'):
        over_seeds([dict(steps=[1]), dict(steps=[1, 2])])


def test_a_cell_has_all_numbers_of_a_mapping_and_is_empty_without_one():
    arm = measured(dict(shares={'a': 0.5, 'b': 0.25}, none=None))
    assert arm.written('{shares:.0p} / {shares[b]:.1p} / {none:.1f}') == '50, 25 / 25.0 / '


def test_a_table_of_steps_has_those_of_each_arm_and_its_last_numbers():
    numbers = {
        'long': measured(dict(top1=[1.0, 2.0], loss=0.5), dict(top1=[3.0, 2.0], loss=0.5)),
        'short': measured(dict(top1=[7.0], loss=None, speedup=[])),
    }
    table = ArmTable('arm', {'loss': '{loss:.1f}', 'end': '{top1:.0f}'}, '{top1:.1f}', 'C{}')
    assert table.lines(numbers) == [
        ('arm', 'C1', 'C2', 'loss', 'end'),
        ('long', '2.0 ± 1.4', '2.0 ± 0.0', '0.5 ± 0.0', '2 ± 0'),
        ('short', '7.0', '', '', '7'),
    ]


def test_a_grid_has_the_rows_and_columns_of_its_arms():
    names = {'r, s, 10': 1, 'r, s, 2': 2, 't, 2': 3}
    numbers = {name: measured(dict(top1=[0, top1])) for name, top1 in names.items()}
    assert {row: list(arms) for row, arms in grid(numbers).items()} == {
        'r, s': ['10', '2'],
        't': ['2'],
    }
    lines = GridTable('corner', '{top1}').lines(numbers)
    assert lines == [('corner', '2', '10'), ('r, s', '2', '1'), ('t', '3', '')]


def test_a_table_in_markdown():
    table = markdown(('|a|', 'b'), ('x', '1'))
    assert table == '| \\|a\\| | b |\n| --- | ---: |\n| x | 1 |'


def arm(top1, speedup, start=None):
    return measured(dict(top1=top1, speedup=speedup), start=start)


ARMS = {'r, 10': arm([70.0, 80.0], 1.5), 'r, 1': arm([60.0, None], 2.0)}
ARMS['from, 1'] = arm([75.0, 90.0], 1.0, ARMS['r, 10'])
SPEEDUP = 'last step, times faster than dense'
STAGE = 'stage: pretrained, finetuned'


@pytest.mark.parametrize(
    'panels, x, label, points',
    [
        (over_steps('round', 'top1'), 'round', 'r, 10', [(1, 70), (2, 80)]),
        (over_steps('round', 'top1'), 'round', 'r, 1', [(1, 60)]),  # nobody looked at the second
        (over_columns('depth', 'top1'), 'depth', 'r', [(10, 80)]),
        (over_columns('depth', 'speedup'), 'depth', 'r', [(1, 2.0), (10, 1.5)]),
        (against('speedup', 'top1'), SPEEDUP, 'from', [(1, 75), (1, 90)]),  # each round
        (against('speedup', 'speedup'), SPEEDUP, 'r', [(1.5, 1.5), (2, 2)]),  # each arm
        (over_stages('top1'), STAGE, 'from, 1', [(1, 80), (2, 90)]),
    ],
)
def test_a_picture_has_the_numbers(panels, x, label, points):
    (axes,) = draw(panels, ARMS).axes
    assert axes.get_xlabel() == x
    assert axes.get_ylabel() in ('top-1 accuracy, %', SPEEDUP)
    (line,) = (line for line in axes.lines if line.get_label() == label)
    assert line.get_xydata().tolist() == [pytest.approx(point) for point in points]
    assert not axes.collections  # one seed has no band


def test_only_arms_that_start_from_another_have_stages():
    (axes,) = draw(over_stages('top1'), ARMS).axes
    assert [line.get_label() for line in axes.lines] == ['from, 1']


def test_a_share_is_drawn_in_percent_with_a_band_of_a_standard_deviation():
    seeds = [dict(small_gammas={'0.01': share}) for share in (0.25, 0.75)]
    numbers = {'BN, 8': measured(*seeds), 'BN, 14': measured(*seeds)}
    (axes,) = draw(over_columns('depth', 'small_gammas[0.01]'), numbers).axes
    assert axes.get_ylabel() == '|gamma| < 0.01, % of channels'
    assert axes.lines[0].get_xydata().tolist() == [[8, 50], [14, 50]]
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    half = 100 * math.sqrt(0.125)
    assert (low, high) == pytest.approx((50 - half, 50 + half))


def lines_of(lines):
    spread = {name: [(x, Spread((y,))) for x, y in points] for name, points in lines.items()}
    return lambda numbers, y: spread


def test_a_logarithmic_axis_has_the_values_that_were_run():
    lines = {'a': [(14, 1), (0, 1), (56, 2)], 'b': [(32, 1)]}
    (axes,) = draw([Panel('x', 'top1', lines_of(lines), 'log')], {}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ['14', '32', '56']
    assert axes.get_xticks().tolist() == [14, 32, 56] and not len(axes.get_xticks(minor=True))


def test_a_line_has_one_look_in_all_panels_and_in_one_legend_and_no_two_the_same():
    lines = {str(number): [(1, number), (2, number)] for number in range(13)}
    later = dict(list(lines.items())[5:])
    panels = [Panel('x', 'top1', lines_of(drawn)) for drawn in (later, lines)]
    figure = draw(panels, {})
    right, left = figure.axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in left.lines}
    assert len(set(looks.values())) == 13
    for line in right.lines:
        assert looks[line.get_label()] == (line.get_color(), line.get_linestyle())
    (legend,) = figure.legends
    told = {text.get_text() for text in legend.get_texts()}
    assert told == looks.keys() and not right.get_legend()


SHARES = dict(weights=0.5, channels=0.5, macs=0.5, params=0.5)
THRESHOLDS = {'0.01': 0.1, '0.05': 0.2, '0.1': 0.3}
SHAPES = {  # of the measures that are not one number
    'left': SHARES,
    'removed': SHARES,
    'small_gammas': THRESHOLDS,
    'change_clamped': THRESHOLDS,
    **dict.fromkeys(
        [f'{of}_path{layer}' for of in ('gamma', 'beta', 'ratio') for layer in ('', '_c5')],
        [dict(p5=0.1, p50=0.2, p95=0.3)] * 2,
    ),
    'dead_by_epoch': [dict(few=0.1, all=0.2)] * 3,
    'overlap_by_epoch': [None, 0.9, 0.95],
    **{f'{of}_by_layer': [0.5] * 31 for of in ('small', 'inactive', 'universality')},
    **{f'{of}_quantiles': [0.5] * 21 for of in ('gamma', 'beta', 'zero', 'l1')},
}
BY_ROUND = ('flops_sparsity', 'flops_left', 'collapsed', 'channels', 'dead', 'prunable')
BY_ROUND += ('dead_share', 'top1', 'loss', 'map')  # in a training with rounds


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_has_a_table_and_a_picture_at_the_papers_scale(name):
    """Which no smoke run sees."""
    experiment, numbers = EXPERIMENTS[name], {}
    shapes = SHAPES | (dict.fromkeys(BY_ROUND, [0.5] * 9) if name.startswith('psbn-') else {})
    for arm in experiment.arms('paper'):
        seed = {measure: shapes.get(measure, 0.5) for measure in experiment.measures}
        numbers[arm.name] = measured(seed, seed, start=numbers.get(arm.pretrained))
    head, *rows = experiment.table.lines(numbers)
    assert rows and all(len(row) == len(head) for row in rows)
    assert all(any(row[1:]) for row in rows)
    for axes in draw(experiment.panels, numbers).axes:
        assert axes.lines and all(len(line.get_xdata()) for line in axes.lines)
