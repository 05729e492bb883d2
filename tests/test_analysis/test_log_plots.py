"""Training logs side by side."""

import json

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='plots need matplotlib')

from PIL import Image  # noqa: E402
from test_report_page import Reader  # noqa: E402

from mmpsbn.analysis.log_plots import build_log_figure, quantities, read_runs, write_log_picture


def write_log(work_dir, stamp, records):
    path = work_dir / stamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, records)))
    return path


@pytest.fixture
def runs(tmp_path):
    """``bn`` and ``<ps$b_n$>``, with a scalar that nobody knows and a prune event."""
    bn = [
        {'iter': i, 'loss': 3 - i / 10, 'sparsity/dead_fraction': i / 100, 'sparsity/new': i}
        for i in range(1, 21)
    ]
    psbn = [{'iter': 10, 'loss': float('nan'), 'sparsity/collapsed': 7, 'coco/bbox_mAP': 0.4}]
    psbn += [{'iter': 15, 'demp/channels_removed': 3}, {'iter': 16, 'demp/channels_removed': 0}]
    write_log(tmp_path / 'bn', '20260101_000000', [{'iter': 1, 'loss': 9.0}])
    write_log(tmp_path / 'bn', '20260102_000000', bn)
    return read_runs([tmp_path / 'bn', write_log(tmp_path / '<ps$b_n$>', '20260101_000000', psbn)])


def lines(figure, gid):
    return [line for axes in figure.axes for line in axes.get_lines() if line.get_gid() == gid]


def test_a_work_dir_gives_its_newest_log(runs):
    assert list(runs) == ['bn', '<ps$b_n$>'] and len(runs['bn']) == 20


def test_every_sparsity_scalar_has_a_panel_with_each_run_that_logged_it(runs):
    keys = ['loss', 'coco/bbox_mAP', 'sparsity/collapsed', 'sparsity/dead_fraction', 'sparsity/new']
    assert quantities(runs) == keys
    figure = build_log_figure(runs)
    assert len(figure.axes) == len(keys)
    (dead,) = lines(figure, 'bn sparsity/dead_fraction')
    np.testing.assert_allclose(dead.get_ydata(), np.arange(1, 21))  # percent
    np.testing.assert_array_equal(lines(figure, 'bn sparsity/new')[0].get_xdata(), range(1, 21))
    assert lines(figure, '<ps$b_n$> sparsity/collapsed')[0].get_ydata().tolist() == [7]
    assert not lines(figure, 'bn sparsity/collapsed') and not lines(figure, '<ps$b_n$> loss')
    dotted = [
        line.get_xdata()[0] for axes in figure.axes for line in axes.get_lines()
        if len(line.get_xdata()) == 2 and line.get_gid() is None
    ]  # fmt: skip
    assert set(dotted) == {15}
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['bn', r'<ps\$b_n\$>']


def test_png_and_page(runs, tmp_path):
    write_log_picture(runs, tmp_path / 'new' / 'log.png')
    with Image.open(tmp_path / 'new' / 'log.png') as picture:
        assert picture.width == 1200 and len(picture.convert('RGB').getcolors(1 << 20)) > 50
    write_log_picture(runs, tmp_path / 'log.html')
    page = Reader((tmp_path / 'log.html').read_text())
    assert page.pictures == 5 and not page.outside
    assert 'bn, <ps$b_n$>' in page.text and 'sparsity/new' in page.text


def test_bad_input_is_said(runs, tmp_path):
    with pytest.raises(ValueError, match=r"--out must end in .png or .html, got 'a.pdf'"):
        write_log_picture(runs, 'a.pdf')
    with pytest.raises(ValueError, match=r'nothing to plot: no loss, score or sparsity/\* in x'):
        write_log_picture({'x': [{'iter': 1, 'lr': 0.1}]}, tmp_path / 'x.png')
    (tmp_path / 'void').mkdir()
    with pytest.raises(FileNotFoundError, match='no training log in .*void: a work dir has'):
        read_runs([tmp_path / 'void'])
    with pytest.raises(FileNotFoundError, match='no scalars at'):
        read_runs([tmp_path / 'nowhere.json'])
    with pytest.raises(ValueError, match='is given twice'):
        read_runs([tmp_path / 'bn', tmp_path / 'bn' / '20260102_000000'])


def test_what_is_no_number_is_left_out_and_what_is_no_object_named(tmp_path):
    good = {'iter': 1, 'loss': 2.0}
    odd = [good, {'iter': 2, 'loss': 'x', 'sparsity/collapsed': None}, {'iter': 3, 'loss': [1]}]
    runs = read_runs([write_log(tmp_path / 'odd', '1', odd)])
    write_log_picture(runs, tmp_path / 'odd.html')
    with pytest.raises(ValueError, match='record 2 is not a JSON object'):
        read_runs([write_log(tmp_path / 'array', '1', [good, [1], good])])
