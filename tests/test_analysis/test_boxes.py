"""Boxes are drawn where they are, and weak ones are not."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('matplotlib', reason='plots need matplotlib')
pytest.importorskip('mmdet')

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmpsbn.analysis.boxes import draw_boxes  # noqa: E402

NAMES = ('cat', 'dog', 'cow', 'hen')


def sample(folder, index=0, empty=False):
    path = folder / f'{index}.png'
    Image.fromarray(np.full((128, 160, 3), 40 * index, np.uint8)).save(path)
    boxes = torch.tensor([[10.0, 20, 50, 60], [100.0, 2, 155, 40], [5.0, 5, 9, 9]])
    found = dict(scores=torch.tensor([0.9, 0.55, 0.1]), labels=torch.tensor([3, 1, 0]))
    found = InstanceData(bboxes=boxes, **found)
    truth = InstanceData(bboxes=torch.tensor([[12.0, 22.0, 52.0, 62.0]]))
    if empty:
        found, truth = found[:0], truth[:0]
    sample = DetDataSample(metainfo=dict(img_path=str(path)))
    sample.pred_instances, sample.gt_instances = found, truth
    return sample


def test_boxes_are_drawn_where_they_are_and_weak_ones_are_not(tmp_path):
    path = tmp_path / 'new' / 'boxes.png'
    (axes,) = draw_boxes([sample(tmp_path)], NAMES, path, score_threshold=0.3).axes
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
    samples = [sample(tmp_path, index, empty=index == 0) for index in range(5)]
    path = tmp_path / 'boxes.png'
    draw_boxes(samples, NAMES, path, score_threshold=0.3)
    with Image.open(path) as picture:
        assert picture.format == 'PNG' and picture.width == 1200
        # two rows of four and the legend
        assert abs(picture.height - (2 * 300 * 128 / 160 + 46)) <= 2
        rgb = np.asarray(picture.convert('RGB')).astype(int)
    saturated = (rgb.max(2) - rgb.min(2)) > 80
    assert saturated[:, 300:].any()  # coloured boxes, but none on the first image
    assert not saturated[:200, :290].any()
