"""Boxes are drawn where they are, and weak ones are not."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('matplotlib', reason='plots need matplotlib')

from mmpsbn.analysis.boxes import draw_boxes  # noqa: E402


def arguments(num_images):
    images = [np.full((128, 160, 3), 40 * index, np.uint8) for index in range(num_images)]
    prediction = dict(
        bboxes=np.array([[10.0, 20, 50, 60], [100.0, 2, 155, 40], [5.0, 5, 9, 9]]),
        scores=np.array([0.9, 0.55, 0.1]),
        labels=np.array([3, 1, 0]),
    )
    truth = dict(bboxes=np.array([[12.0, 22.0, 52.0, 62.0]]))
    return images, [prediction] * num_images, [truth] * num_images, ('cat', 'dog', 'cow', 'hen')


def test_boxes_are_drawn_where_they_are_and_weak_ones_are_not(tmp_path):
    figure = draw_boxes(*arguments(1), tmp_path / 'new' / 'boxes.png', score_threshold=0.3)
    (axes,) = figure.axes
    patches = {
        gid: [patch.get_bbox().bounds for patch in axes.patches if patch.get_gid() == gid]
        for gid in ('prediction', 'truth')
    }
    # a pixel's centre is its integer coordinate in imshow, its left edge half a pixel before;
    # the best is on top
    assert patches['prediction'] == [(99.5, 1.5, 55.0, 38.0), (9.5, 19.5, 40.0, 40.0)]
    assert patches['truth'] == [(11.5, 21.5, 40.0, 40.0)]
    assert [text.get_text() for text in axes.texts] == ['dog  0.55', 'hen  0.90']
    assert len(axes.get_images()) == 1


def test_images_without_boxes_and_an_unfilled_grid(tmp_path):
    images, predictions, truths, names = arguments(5)
    predictions[0] = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
    truths[0] = dict(bboxes=[])
    path = tmp_path / 'boxes.png'
    size = dict(num_columns=3, width_px=900)
    draw_boxes(images, predictions, truths, names, path, score_threshold=0.3, **size)
    with Image.open(path) as picture:
        assert picture.format == 'PNG' and picture.width == 900
        # two rows of three and the legend
        assert abs(picture.height - (2 * 300 * 128 / 160 + 46)) <= 2
        rgb = np.asarray(picture.convert('RGB')).astype(int)
    saturated = (rgb.max(2) - rgb.min(2)) > 80
    assert saturated[:, 300:].any()  # coloured boxes, but none on the first image
    assert not saturated[:200, :290].any()
    with pytest.raises(ValueError, match='shorter'):
        draw_boxes(images, predictions[:4], truths, names, path, score_threshold=0.3)
