"""Training logs: what is read of them, and the pictures of one or several."""

import json

import numpy as np
import pytest
from PIL import Image
from reports import Reader

from mmpsbn.analysis.log_plots import build_log_figure, quantities, write_log_picture
from mmpsbn.analysis.logs import read_runs, read_scalars, smooth


def write_log(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(r if isinstance(r, str) else json.dumps(r) for r in records) + '\n')
    return path


@pytest.fixture
def runs(tmp_path):
    """``bn`` and ``<ps$b_n$>``, with a scalar that nobody knows, prune events and a round."""
    bn = [
        {'iter': i, 'loss': 3 - i / 10, 'sparsity/dead_fraction': i / 100, 'sparsity/new': i}
        for i in range(1, 21)
    ]
    psbn = [{'iter': 10, 'loss': float('nan'), 'coco/bbox_mAP': 0.4, 'voc/mAP': 0.5, 'lr': 1}]
    psbn += [{'iter': 10, 'sparsity/collapsed': 7, 'sparsity/collapsed_fraction': 0.07}]
    psbn += [{'iter': 15, 'demp/channels_removed': 3}, {'iter': 16, 'demp/channels_removed': 0}]
    psbn += [{'iter': 17, 'demp/channels_removed': 1}, {'iter': 18, 'round/collapsed': 7}]
    place = 'vis_data/scalars.json'
    write_log(tmp_path / 'bn' / '20260101_000000' / place, [{'iter': 1, 'loss': 9.0}])
    write_log(tmp_path / 'bn' / '20260102_000000' / place, bn)
    other = write_log(tmp_path / '<ps$b_n$>' / '20260101_000000' / place, psbn)
    return read_runs([tmp_path / 'bn', other])


def lines(figure, gid):
    return [line for axes in figure.axes for line in axes.get_lines() if line.get_gid() == gid]


def test_a_work_dir_gives_its_newest_log(runs):
    assert list(runs) == ['bn', '<ps$b_n$>'] and len(runs['bn']) == 20


def test_every_quantity_has_one_panel_with_each_run_that_logged_it(runs):
    keys = ['loss', 'coco/bbox_mAP', 'sparsity/collapsed_fraction', 'sparsity/dead_fraction']
    assert quantities(runs) == [*keys, 'sparsity/new']  # how many collapsed is the same curve
    assert quantities({'x': [{'iter': 1, 'sparsity/collapsed': 3}]}) == ['sparsity/collapsed']
    figure = build_log_figure(runs)
    (dead,) = lines(figure, 'bn sparsity/dead_fraction')
    np.testing.assert_allclose(dead.get_ydata(), np.arange(1, 21))  # percent
    np.testing.assert_array_equal(lines(figure, 'bn sparsity/new')[0].get_xdata(), range(1, 21))
    (collapsed,) = lines(figure, '<ps$b_n$> sparsity/collapsed_fraction')
    assert collapsed.get_ydata().tolist() == pytest.approx([7])
    assert not lines(figure, 'bn coco/bbox_mAP') and not lines(figure, '<ps$b_n$> loss')


def test_vertical_lines_are_in_the_legend(runs):
    figure = build_log_figure(runs)
    assert [line.get_xdata()[0] for line in lines(figure, 'prune event')] == [15, 17] * 5
    assert [line.get_xdata()[0] for line in lines(figure, 'end of a round')] == [18] * 5
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ['bn', r'<ps\$b_n\$>', 'prune event', 'end of a round']


def test_the_last_values_are_in_a_table(runs, tmp_path):
    (table,) = build_log_figure(runs).axes[-1].tables
    cells = {place: cell.get_text().get_text() for place, cell in table.get_celld().items()}
    rows = [[cells[row, column] for column in range(3)] for row in range(7)]
    assert rows == [
        ['at the end', 'bn', r'<ps\$b_n\$>'],
        ['Loss', '1', ''],
        ['COCO mAP', '', '0.4'],
        ['Collapsed filters, share', '', '7.0 %'],
        ['Dead channels, share', '20.0 %', ''],
        ['sparsity/new', '20', ''],
        ['voc/mAP', '', '0.5'],  # a score that is not drawn
    ]
    write_log_picture(runs, tmp_path / 'log.html')
    page = Reader((tmp_path / 'log.html').read_text())
    assert page.pictures == 5 and not page.outside
    assert 'bn, <ps$b_n$>' in page.text and 'at the endbn<ps$b_n$>' in page.text
    write_log_picture(runs, tmp_path / 'new' / 'log.png')
    with Image.open(tmp_path / 'new' / 'log.png') as picture:
        assert picture.width == 1200 and len(picture.convert('RGB').getcolors(1 << 20)) > 50


def test_what_stays_at_0_is_told_by_the_table_alone():
    key = 'sparsity/dead_fraction'
    still = [{'iter': i, 'loss': 1.0, key: 0.0} for i in (1, 2)]
    figure = build_log_figure({'still': still})
    assert lines(figure, 'still loss') and not lines(figure, f'still {key}')
    texts = [cell.get_text().get_text() for cell in figure.axes[-1].tables[0].get_celld().values()]
    assert 'Dead channels, share' in texts
    moving = build_log_figure({'still': still, 'moving': [{'iter': 3, key: 0.1}]})
    assert lines(moving, f'still {key}') and lines(moving, f'moving {key}')
    alone = build_log_figure({'still': [{'iter': 1, key: 0.0}]})
    assert lines(alone, f'still {key}')


def test_numbers_that_are_none_and_a_loss_without_a_logarithm(tmp_path):
    odd = [{'iter': 1, 'loss': 2.0}, {'iter': 2, 'loss': 'x', 'sparsity/collapsed': None}]
    odd += [{'iter': 3, 'loss': [1]}, {'iter': 4, 'loss': float('inf')}, {'iter': 5, 'loss': -1.0}]
    figure = build_log_figure({'odd': odd})
    (loss,) = lines(figure, 'odd loss')
    assert loss.get_xdata().tolist() == [1, 5] and loss.axes.get_yscale() == 'linear'
    zeros = [{'iter': i, 'coco/bbox_mAP': 0.0, 'demp/strength': 0.0} for i in (1, 2)]
    write_log_picture({'zeros': zeros}, tmp_path / 'zeros.png')


def test_bad_input_is_said(runs, tmp_path):
    with pytest.raises(ValueError, match=r"--out must end in .png or .html, got 'a.pdf'"):
        write_log_picture(runs, 'a.pdf')
    with pytest.raises(ValueError, match=r'nothing to plot: no loss, score or sparsity/\* in x'):
        write_log_picture({'x': [{'iter': 1, 'lr': 0.1}]}, tmp_path / 'x.png')
    (tmp_path / 'void').mkdir()
    with pytest.raises(FileNotFoundError, match='no training log in .*void: a work dir has'):
        read_runs([tmp_path / 'void'])
    with pytest.raises(FileNotFoundError, match='no scalars at .*; MMEngine writes them to'):
        read_runs([tmp_path / 'nowhere.json'])
    with pytest.raises(ValueError, match='is given twice'):
        read_runs([tmp_path / 'bn', tmp_path / 'bn/20260102_000000/vis_data/scalars.json'])
    good = {'iter': 1, 'loss': 2.0}
    for bad in ('rubbish', '[1]'):
        with pytest.raises(ValueError, match='record 2 is not a JSON object'):
            read_runs([write_log(tmp_path / 'bad.json', [good, bad, good])])


@pytest.mark.parametrize('length', [1, 2, 7, 90])
def test_smoothing_keeps_length_constants_and_mean(length):
    np.testing.assert_allclose(smooth(np.full(length, 3.0)), 3.0)
    values = np.random.default_rng(0).normal(size=length)
    smoothed = smooth(values)
    assert smoothed.shape == values.shape
    assert values.min() <= smoothed.min() and smoothed.max() <= values.max()
    if length == 90:  # three on either side
        np.testing.assert_allclose(smoothed[[0, 40]], [values[:4].mean(), values[37:44].mean()])


def test_validations_stand_on_the_axis_of_iterations(tmp_path):
    records = [
        {'loss': 2.0, 'iter': 50, 'step': 50},
        {'loss': 1.0, 'iter': 100, 'step': 100},
        {'coco/bbox_mAP': 0.1, 'step': 1},  # step is the epoch
        {'sparsity/collapsed_fraction': 0.1, 'step': 100},  # of a hook: step is the iteration
        {'loss': 1.0, 'iter': 150, 'step': 150},
        {'coco/bbox_mAP': 0.2, 'step': 160},  # log_metric_by_epoch=False
        '{"loss": 1.0, "it',  # a killed run
    ]
    found = read_scalars(write_log(tmp_path / 'scalars.json', records))
    assert [record['iter'] for record in found] == [50, 100, 100, 100, 150, 160]


def test_what_mmengine_writes_is_read(tmp_path):
    visualization = pytest.importorskip('mmengine.visualization')
    backend = visualization.LocalVisBackend(str(tmp_path))
    backend.add_scalars({'loss': 2.5, 'iter': 20}, step=20)
    backend.add_scalars({'coco/bbox_mAP': 0.25}, step=1)
    records = read_scalars(tmp_path / 'scalars.json')
    found = [(r['iter'], r.get('loss'), r.get('coco/bbox_mAP')) for r in records]
    assert found == [(20, 2.5, None), (20, None, 0.25)]
