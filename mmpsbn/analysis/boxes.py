"""Boxes on images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mmcv import imread
from mmdet.structures import DetDataSample

from .style import PNG_DPI, save_png

# Ten hues that stay apart on photographs and carry black text; classes beyond ten repeat them.
_CLASS_COLOURS = (
    '#ff5d5d #3fa7ff #45d16b #ffb02e #c77dff #2ee6e6 #ff7ac6 #c3e83a #ff8a4c #9fb0ff'
).split()
_OUTLINE = [patheffects.withStroke(linewidth=2.2, foreground='black', alpha=0.75)]
_DASHED = (0, (3, 2))
_COLUMNS, _WIDTH_PX, _LEGEND_PX = 4, 1200, 46


def draw_boxes(
    samples: Sequence[DetDataSample],
    class_names: Sequence[str],
    out_path: str | Path,
    *,
    score_threshold: float,
) -> Figure:
    """Write a grid of images, one or more, with predicted and true boxes to a PNG.

    Predictions come in their class's colour with name and score, those scored below the threshold
    left out; true boxes come thin, dashed and white.
    """
    images = [imread(sample.img_path, channel_order='rgb') for sample in samples]
    num_columns = min(_COLUMNS, len(images))
    num_rows = math.ceil(len(images) / num_columns)
    cell_px = _WIDTH_PX / num_columns
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    height_px = round(cell_px * tallest * num_rows + _LEGEND_PX)
    size = _WIDTH_PX / PNG_DPI, height_px / PNG_DPI
    figure = Figure(figsize=size, dpi=PNG_DPI, facecolor='white')
    edges = dict(left=0, right=1, top=1, bottom=_LEGEND_PX / height_px)
    gaps = dict(wspace=3 / cell_px, hspace=3 / cell_px)
    grid = figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=edges | gaps)
    for axes in grid.flat:
        axes.axis('off')
    for axes, image, sample in zip(grid.flat, images, samples):
        height, width = image.shape[:2]
        axes.imshow(image, interpolation='bilinear', aspect='equal')
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        for box in sample.gt_instances.bboxes.tolist():
            _draw_box(axes, box, edgecolor='white', linewidth=0.9, linestyle=_DASHED, gid='truth')
        found = sample.pred_instances
        found = found[found.scores >= score_threshold]
        found = found[found.scores.argsort(stable=True)]  # the best last, so on top
        for box, score, label in zip(*(found[k].tolist() for k in ('bboxes', 'scores', 'labels'))):
            colour = _CLASS_COLOURS[label % len(_CLASS_COLOURS)]
            _draw_box(axes, box, edgecolor=colour, linewidth=1.7, gid='prediction')
            _tag(axes, box, f'{class_names[label]}  {score:.2f}', colour, image)
    predicted = f'predicted: class and score (>= {score_threshold:g})'
    handles = [
        Line2D([], [], color=_CLASS_COLOURS[1], linewidth=2.4, label=predicted),
        Line2D([], [], color='#555555', linewidth=1.2, linestyle=_DASHED, label='ground truth'),
    ]
    style = dict(frameon=False, fontsize=10, handlelength=2.6, columnspacing=3)
    figure.legend(handles=handles, loc='lower center', ncols=2, **style)
    save_png(figure, out_path)
    return figure


def _draw_box(axes: Axes, box: Sequence[float], **style) -> None:
    x1, y1, x2, y2 = box
    # a pixel's centre is at its whole coordinates, its left edge half a pixel before
    corner = x1 - 0.5, y1 - 0.5
    axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, path_effects=_OUTLINE, **style))


def _tag(axes: Axes, box: Sequence[float], text: str, colour: str, image: np.ndarray) -> None:
    """On top of the box; at the image's top it goes below the upper edge, at its right side it
    grows to the left."""
    x1, y1, x2, _ = box
    at_top, at_right = y1 < 0.09 * image.shape[0], x1 > 0.8 * image.shape[1]
    axes.annotate(
        text,
        (x2 if at_right else x1, max(y1, 0)),
        xytext=(0, -1 if at_top else 1),
        textcoords='offset points',
        ha='right' if at_right else 'left',
        va='top' if at_top else 'bottom',
        fontsize=7,
        color='black',
        clip_on=True,
        bbox=dict(boxstyle='square,pad=0.12', facecolor=colour, edgecolor='none', alpha=0.9),
    )
