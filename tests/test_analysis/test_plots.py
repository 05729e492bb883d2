import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('matplotlib', reason='plots need matplotlib')

from mmpsbn.analysis.plots import (
    _smooth,
    build_box_figure,
    build_training_figure,
    draw_boxes,
    plot_training_curves,
    read_scalars,
)


def find_line(figure, gid):
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_gid() == gid]
    assert len(lines) == 1, f'{len(lines)} lines called {gid}'
    return lines[0]


def run_records():
    """100 logged iterations with two prune events and two validations."""
    records = []
    for step in range(10, 1001, 10):
        records.append(
            {
                'iter': step,
                'loss': 3 - 2 * step / 1000,
                'demp/strength': step / 1000,
                'demp/penalty_scale': 2.0,
                'demp/macs_left': 1.0 if step < 400 else 0.7,
                'sparsity/collapsed_fraction': step / 4000,
            }
        )
    records += [
        {'iter': 400, 'demp/channels_removed': 61},
        {'iter': 600, 'demp/channels_removed': 0},
        {'iter': 800, 'demp/channels_removed': 9},
        {'iter': 500, 'coco/bbox_mAP': 0.2},
        {'iter': 1000, 'coco/bbox_mAP': 0.4},
    ]
    return records


# ---------------------------------------------------------------- curves
def test_curves_hold_the_data_given():
    figure = build_training_figure(run_records(), width_px=1200)
    loss = find_line(figure, 'loss')
    np.testing.assert_array_equal(loss.get_xdata(), np.arange(10, 1001, 10))
    np.testing.assert_allclose(loss.get_ydata(), 3 - 2 * np.arange(10, 1001, 10) / 1000)
    assert loss.axes.get_yscale() == 'log'
    assert len(find_line(figure, 'loss smoothed').get_ydata()) == 100
    np.testing.assert_allclose(
        find_line(figure, 'demp/macs_left').get_ydata()[[0, -1]], [100, 70]
    )  # percent
    np.testing.assert_allclose(find_line(figure, 'sparsity/collapsed_fraction').get_ydata()[-1], 25)
    np.testing.assert_array_equal(find_line(figure, 'coco/bbox_mAP').get_xdata(), [500, 1000])
    np.testing.assert_allclose(find_line(figure, 'demp/strength').get_ydata()[-1], 1)
    assert find_line(figure, 'coco/bbox_mAP').axes is not loss.axes  # a right-hand scale of its own
    shared = {axes.get_xlim() for axes in figure.axes}
    assert len(shared) == 1


def test_prune_events_are_marked_in_every_panel_and_labelled_once():
    figure = build_training_figure(run_records(), width_px=1200)
    marks = [
        line for axes in figure.axes for line in axes.get_lines() if line.get_gid() == 'prune event'
    ]
    assert (
        sorted(line.get_xdata()[0] for line in marks) == [400] * 3 + [800] * 3
    )  # 3 panels; the event that removed nothing is not drawn
    labels = [
        text.get_text()
        for axes in figure.axes
        for text in axes.texts
        if text.get_gid() == 'prune label'
    ]
    assert labels == ['-61', '-9']
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert 'prune events: 2, channels removed: 70' in legend


def test_missing_keys_leave_out_curves_and_panels():
    loss_only = build_training_figure([{'iter': i, 'loss': 1.0} for i in range(1, 4)], width_px=800)
    assert len(loss_only.axes) == 1
    no_loss = build_training_figure(
        [{'iter': 5, 'coco/bbox_mAP': 0.3}, {'iter': 5, 'demp/macs_left': 0.5}], width_px=800
    )
    assert len(no_loss.axes) == 2 and find_line(no_loss, 'coco/bbox_mAP').get_ydata()[0] == 0.3
    with pytest.raises(
        ValueError, match='nothing to plot: none of the 1 records holds one of loss, '
    ):
        build_training_figure([{'iter': 1, 'lr': 0.1}], width_px=800)


def test_bad_values_do_not_break_the_plot(tmp_path):
    records = [
        {'iter': 1, 'loss': 2.0},
        {'iter': 2, 'loss': float('nan')},
        {'iter': 3, 'loss': float('inf')},
        {'iter': 4, 'loss': -1.0},
    ]
    figure = build_training_figure(records, width_px=800)
    line = find_line(figure, 'loss')
    assert (
        line.get_xdata().tolist() == [1, 4] and line.axes.get_yscale() == 'linear'
    )  # no logarithm of a negative loss
    zeros = [
        {'iter': i, 'demp/strength': 0.0, 'demp/penalty_scale': 0.0, 'coco/bbox_mAP': 0.0}
        for i in (1, 2)
    ]
    plot_training_curves(zeros, tmp_path / 'zeros.png')


@pytest.mark.parametrize('length', [1, 2, 7, 90])
def test_smoothing_keeps_length_constants_and_mean(length):
    np.testing.assert_allclose(_smooth(np.full(length, 3.0)), 3.0)
    values = np.random.default_rng(0).normal(size=length)
    smooth = _smooth(values)
    assert (
        smooth.shape == values.shape
        and values.min() <= smooth.min()
        and smooth.max() <= values.max()
    )
    if length == 90:  # three on either side
        np.testing.assert_allclose(smooth[[0, 40]], [values[:4].mean(), values[37:44].mean()])


def test_png_is_as_wide_as_asked(tmp_path):
    plot_training_curves(run_records(), tmp_path / 'deep' / 'curves.png', width_px=900)
    with Image.open(tmp_path / 'deep' / 'curves.png') as picture:
        assert picture.format == 'PNG' and picture.width == 900 and picture.height > 500
        assert len(picture.convert('RGB').getcolors(1 << 24)) > 50


# ---------------------------------------------------------------- scalars.json
def write_lines(path, lines):
    path.write_text(
        '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + '\n'
    )
    return path


def test_read_scalars_puts_validations_on_the_iteration_axis(tmp_path):
    path = write_lines(
        tmp_path / 'scalars.json',
        [
            {'loss': 2.0, 'iter': 50, 'step': 50},
            {'loss': 1.0, 'iter': 100, 'step': 100},
            {'coco/bbox_mAP': 0.1, 'step': 1},  # step is the epoch
            {
                'sparsity/collapsed_fraction': 0.1,
                'step': 100,
            },  # a hook's own record: step is the iteration
            {'loss': 1.0, 'iter': 150, 'step': 150},
            {'coco/bbox_mAP': 0.2, 'step': 160},  # log_metric_by_epoch=False
            {'sparsity/collapsed_fraction': 0.2, 'step': 170},
        ],
    )
    assert [record['iter'] for record in read_scalars(path)] == [50, 100, 100, 100, 150, 160, 170]


def test_read_scalars_of_a_killed_run_and_of_rubbish(tmp_path):
    good = {'loss': 2.0, 'iter': 50, 'step': 50}
    assert read_scalars(write_lines(tmp_path / 'killed.json', [good, '{"loss": 1.0, "it'])) == [
        good
    ]
    assert np.isnan(
        read_scalars(write_lines(tmp_path / 'nan.json', ['{"loss": NaN, "iter": 1}']))[0]['loss']
    )
    with pytest.raises(ValueError, match="record 1 is not a JSON object: 'rubbish'"):
        read_scalars(write_lines(tmp_path / 'bad.json', ['rubbish', good]))
    with pytest.raises(FileNotFoundError, match='MMEngine writes them to'):
        read_scalars(tmp_path / 'absent.json')


def test_read_scalars_reads_what_mmengine_writes(tmp_path):
    visualization = pytest.importorskip('mmengine.visualization')
    backend = visualization.LocalVisBackend(str(tmp_path))
    backend.add_scalars({'loss': 2.5, 'iter': 20}, step=20)
    backend.add_scalars({'coco/bbox_mAP': 0.25}, step=1)
    records = read_scalars(tmp_path / 'scalars.json')
    assert [
        (record['iter'], record.get('loss'), record.get('coco/bbox_mAP')) for record in records
    ] == [(20, 2.5, None), (20, None, 0.25)]


# ---------------------------------------------------------------- boxes
def box_arguments(num_images):
    images = [np.full((128, 160, 3), 40 * index, np.uint8) for index in range(num_images)]
    predictions = [
        dict(
            bboxes=np.array(
                [[10.0, 20.0, 50.0, 60.0], [100.0, 2.0, 155.0, 40.0], [5.0, 5.0, 9.0, 9.0]]
            ),
            scores=np.array([0.9, 0.55, 0.1]),
            labels=np.array([3, 1, 0]),
        )
        for _ in range(num_images)
    ]
    truths = [dict(bboxes=np.array([[12.0, 22.0, 52.0, 62.0]])) for _ in range(num_images)]
    return images, predictions, truths, ('cat', 'dog', 'cow', 'hen')


def test_boxes_are_drawn_where_they_are_and_weak_ones_are_not():
    figure = build_box_figure(*box_arguments(1), score_threshold=0.3, num_columns=4, width_px=600)
    patches = {
        gid: [patch.get_bbox().bounds for patch in figure.axes[0].patches if patch.get_gid() == gid]
        for gid in ('prediction', 'truth')
    }
    # A pixel's centre is its integer coordinate in imshow, its left edge half a pixel before.
    assert patches['prediction'] == [
        (99.5, 1.5, 55.0, 38.0),
        (9.5, 19.5, 40.0, 40.0),
    ]  # the best on top
    assert patches['truth'] == [(11.5, 21.5, 40.0, 40.0)]
    assert [text.get_text() for text in figure.axes[0].texts] == ['dog  0.55', 'hen  0.90']
    assert len(figure.axes[0].get_images()) == 1


def test_images_without_boxes_and_an_unfilled_grid(tmp_path):
    images, predictions, truths, names = box_arguments(5)
    predictions[0] = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
    truths[0] = dict(bboxes=[])
    draw_boxes(
        images,
        predictions,
        truths,
        names,
        tmp_path / 'boxes.png',
        score_threshold=0.3,
        num_columns=3,
        width_px=900,
    )
    with Image.open(tmp_path / 'boxes.png') as picture:
        assert picture.format == 'PNG' and picture.width == 900
        assert (
            abs(picture.height - (2 * 300 * 128 / 160 + 46)) <= 2
        )  # two rows of three and the legend
        rgb = np.asarray(picture.convert('RGB')).astype(int)
    saturated = (rgb.max(2) - rgb.min(2)) > 80
    assert (
        saturated[:, 300:].any() and not saturated[:200, :290].any()
    )  # coloured boxes, but none on the first image


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda a: ([], [], [], a[3]), 'images is empty'),
        (lambda a: (a[0], a[1][:1], a[2], a[3]), 'must be of one length, got 2, 1 and 2'),
    ],
)
def test_bad_box_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        build_box_figure(
            *change(box_arguments(2)), score_threshold=0.3, num_columns=4, width_px=600
        )
    with pytest.raises(ValueError, match='num_columns must be >= 1, got 0'):
        build_box_figure(*box_arguments(2), score_threshold=0.3, num_columns=0, width_px=600)
