"""Pictures of a training run: boxes on images, and curves over iterations.

Data in, PNG out; matplotlib only, without a display. Not pyplot: a bare ``Figure`` has no global
state and draws with Agg whatever the user's backend is.
"""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

_DPI = 120
# Ten hues that stay apart on photographs and carry black text; classes beyond ten repeat them.
_CLASS_COLOURS = (
    '#ff5d5d',
    '#3fa7ff',
    '#45d16b',
    '#ffb02e',
    '#c77dff',
    '#2ee6e6',
    '#ff7ac6',
    '#c3e83a',
    '#ff8a4c',
    '#9fb0ff',
)
_BLUE, _ORANGE, _GREEN, _RED, _GREY = '#2166ac', '#d9730d', '#2c8c5a', '#b2182b', '#8a8a8a'
_OUTLINE = [patheffects.withStroke(linewidth=2.2, foreground='black', alpha=0.75)]


# ---------------------------------------------------------------- boxes on images
def draw_boxes(
    images,
    predictions,
    ground_truths,
    class_names,
    out_path,
    *,
    score_threshold,
    num_columns=4,
    width_px=1200,
):
    """Write a grid of images with predicted and true boxes to a PNG.

    Predictions come in their class's colour with name and score, true boxes thin, dashed and white.

    Args:
        images (list[ndarray]): RGB, uint8, each of shape (H, W, 3).
        predictions (list[dict]): one per image: ``bboxes`` (N, 4) as x1, y1, x2, y2 in pixels,
            ``scores`` (N,) in 0..1, ``labels`` (N,).
        ground_truths (list[dict]): one per image: ``bboxes`` (M, 4) as above.
        class_names (sequence[str]): label -> name.
        out_path (str | Path): the PNG to write; its folder is made.
        score_threshold (float): boxes scored below it are left out.
        num_columns (int): images in a row, >= 1.
        width_px (int): width of the picture in pixels; the height follows from the images.

    Raises:
        ValueError: no image, lists of different lengths, or ``num_columns`` < 1.
    """
    figure = build_box_figure(
        images,
        predictions,
        ground_truths,
        class_names,
        score_threshold=score_threshold,
        num_columns=num_columns,
        width_px=width_px,
    )
    _save(figure, out_path)


def build_box_figure(
    images, predictions, ground_truths, class_names, *, score_threshold, num_columns, width_px
):
    """The matplotlib ``Figure`` that :func:`draw_boxes` writes; arguments and errors as there."""
    if not images:
        raise ValueError('images is empty; pass at least one image to draw')
    if not len(images) == len(predictions) == len(ground_truths):
        raise ValueError(
            'images, predictions and ground_truths must be of one length, '
            f'got {len(images)}, {len(predictions)} and {len(ground_truths)}'
        )
    if num_columns < 1:
        raise ValueError(f'num_columns must be >= 1, got {num_columns}')
    num_columns = min(num_columns, len(images))
    num_rows = math.ceil(len(images) / num_columns)
    cell_px = width_px / num_columns
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    legend_px = 46
    height_px = round(cell_px * tallest * num_rows + legend_px)
    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, facecolor='white')
    gap = 3 / cell_px
    grid = figure.subplots(
        num_rows,
        num_columns,
        squeeze=False,
        gridspec_kw=dict(
            left=0, right=1, top=1, bottom=legend_px / height_px, wspace=gap, hspace=gap
        ),
    )
    for axes in grid.flat:
        axes.axis('off')
    for axes, image, prediction, truth in zip(grid.flat, images, predictions, ground_truths):
        _draw_one_image(axes, image, prediction, truth, class_names, score_threshold)
    figure.legend(
        handles=[
            Line2D(
                [],
                [],
                color=_CLASS_COLOURS[1],
                linewidth=2.4,
                label=f'predicted: class and score (>= {score_threshold:g})',
            ),
            Line2D(
                [], [], color='#555555', linewidth=1.2, linestyle=(0, (3, 2)), label='ground truth'
            ),
        ],
        loc='lower center',
        ncols=2,
        frameon=False,
        fontsize=10,
        handlelength=2.6,
        columnspacing=3,
    )
    return figure


def _draw_one_image(axes, image, prediction, truth, class_names, score_threshold):
    height, width = image.shape[:2]
    axes.imshow(image, interpolation='bilinear', aspect='equal')
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    for x1, y1, x2, y2 in np.asarray(truth['bboxes']).reshape(-1, 4):
        axes.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor='white',
                linewidth=0.9,
                linestyle=(0, (3, 2)),
                gid='truth',
                path_effects=_OUTLINE,
            )
        )
    bboxes, scores, labels = (np.asarray(prediction[key]) for key in ('bboxes', 'scores', 'labels'))
    for index in np.argsort(scores, kind='stable'):  # the best last, so on top
        if scores[index] < score_threshold:
            continue
        x1, y1, x2, y2 = bboxes[index]
        colour = _CLASS_COLOURS[int(labels[index]) % len(_CLASS_COLOURS)]
        axes.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=colour,
                linewidth=1.7,
                gid='prediction',
                path_effects=_OUTLINE,
            )
        )
        # The tag sits on the box; at the image's top it goes below the upper edge, at its right
        # side it grows to the left.
        at_top, at_right = y1 < 0.09 * height, x1 > 0.8 * width
        axes.annotate(
            f'{class_names[int(labels[index])]}  {scores[index]:.2f}',
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


# ---------------------------------------------------------------- curves over iterations
def read_scalars(path):
    """Read MMEngine's ``vis_data/scalars.json`` (one JSON object a line).

    Returns a list of dicts, each with ``iter`` set (1 = first iteration). MMEngine writes training
    records with ``iter``, but validation records with ``step`` alone, which is the *epoch* unless
    ``LoggerHook(log_metric_by_epoch=False)``. A record without ``iter`` gets its ``step`` where
    that is no smaller than the last training iteration in the file (then it cannot be an epoch),
    else that last iteration. A half-written last line (a killed run) is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line other than the last is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'no scalars at {path}; '
            'MMEngine writes them to <work_dir>/<timestamp>/vis_data/scalars.json'
        )
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    records, last_iter = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(
                f'{path}, record {number} is not a JSON object: {line[:60]!r}'
            ) from None
        if 'iter' not in record:
            record['iter'] = max(record.get('step', 0), last_iter)
        last_iter = max(last_iter, record['iter'])
        records.append(record)
    return records


def plot_training_curves(scalars, out_path, *, width_px=1200):
    """Write stacked panels over a shared iteration axis to a PNG.

    The panels: loss and mAP; sparsity and MACs; penalty and noise. A prune event is a vertical line
    through all of them, labelled with the channels it removed. Keys that no record holds are left
    out, and so is a panel with no key at all.

    Args:
        scalars (list[dict]): records as :func:`read_scalars` returns them: ``iter`` and any of
            ``loss``, ``coco/bbox_mAP``, ``sparsity/collapsed_fraction``,
            ``sparsity/flops_sparsity``, ``demp/macs_left``, ``demp/channels_left`` (these four
            0..1), ``demp/strength`` (of penalty and noise, 0..1), ``demp/penalty_scale`` (of a
            budget), ``demp/channels_removed`` (of one prune event; 0 and NaN draw no line).
        out_path (str | Path): the PNG to write; its folder is made.
        width_px (int): width of the picture in pixels.

    Raises:
        ValueError: no record holds any of these keys.
    """
    _save(build_training_figure(scalars, width_px=width_px), out_path)


def build_training_figure(scalars, *, width_px):
    """The ``Figure`` that :func:`plot_training_curves` writes; arguments and errors as there."""
    panels = [
        panel for panel in _PANELS if any(_series(scalars, key)[0].size for key in panel['keys'])
    ]
    if not panels:
        known = ', '.join(key for panel in _PANELS for key in panel['keys'])
        raise ValueError(
            f'nothing to plot: none of the {len(scalars)} records holds one of {known}'
        )
    heights = [panel['height'] for panel in panels]
    figure = Figure(
        figsize=(width_px / _DPI, sum(heights) + 0.7),
        dpi=_DPI,
        facecolor='white',
        layout='constrained',
    )
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.08)
    grid = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw=dict(height_ratios=heights)
    )[:, 0]
    for axes, panel in zip(grid, panels):
        _style(axes)
        panel['draw'](axes, scalars)
        axes.set_title(panel['title'], loc='left', fontsize=11, fontweight='bold', color='#333333')
    _mark_prune_events(grid, scalars)
    for axes in grid:
        _add_legend(axes)
    grid[-1].set_xlabel('iteration', fontsize=10)
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1].set_xlim(0, max(record['iter'] for record in scalars) * 1.01)
    return figure


def _draw_loss(axes, scalars):
    iters, loss = _series(scalars, 'loss')
    if iters.size:
        axes.plot(iters, loss, color=_BLUE, alpha=0.28, linewidth=1, gid='loss')
        axes.plot(
            iters,
            _smooth(loss),
            color=_BLUE,
            linewidth=2,
            label='loss (faint: as logged)',
            gid='loss smoothed',
        )
        axes.set_yscale('log' if (loss > 0).all() else 'linear')
        axes.set_ylabel('loss', color=_BLUE)
        # Plain numbers also between the decades: a loss rarely spans more than one or two.
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter('{x:g}')
        axes.tick_params(axis='y', which='minor', labelsize=7)
    map_iters, mean_ap = _series(scalars, 'coco/bbox_mAP')
    if map_iters.size:
        right = _right_axes(axes) if iters.size else axes
        right.plot(
            map_iters,
            mean_ap,
            color=_ORANGE,
            marker='o',
            markersize=6,
            linewidth=1.4,
            label='COCO mAP on val',
            gid='coco/bbox_mAP',
        )
        right.set_ylim(0, max(0.05, 1.25 * mean_ap.max()))
        right.set_ylabel('COCO mAP', color=_ORANGE)
        right.annotate(
            f'{mean_ap[-1]:.3f}',
            (map_iters[-1], mean_ap[-1]),
            xytext=(-6, 6),
            textcoords='offset points',
            ha='right',
            fontsize=9,
            color=_ORANGE,
            fontweight='bold',
        )


def _draw_sparsity(axes, scalars):
    # MACs change at prune events only, so steps; the two sparsities are measured at intervals and
    # drawn as they are.
    for key, label, colour, style in (
        ('demp/macs_left', 'MACs left', _GREEN, dict(drawstyle='steps-post', linewidth=2.2)),
        ('demp/channels_left', 'channels left', _BLUE, dict(drawstyle='steps-post', linewidth=1.4)),
        ('sparsity/flops_sparsity', 'FLOPs sparsity', _RED, dict(linewidth=1.6)),
        (
            'sparsity/collapsed_fraction',
            'collapsed filters',
            _ORANGE,
            dict(linewidth=1.6, linestyle='--'),
        ),
    ):
        iters, values = _series(scalars, key)
        if iters.size:
            axes.plot(
                iters,
                100 * values,
                color=colour,
                label=f'{label} ({100 * values[-1]:.1f} %)',
                gid=key,
                **style,
            )
    axes.set_ylim(-3, 105)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))


def _draw_schedule(axes, scalars):
    drawn_left = False
    for key, label, colour, style in (
        ('demp/strength', 'share of the peaks', _BLUE, dict(linewidth=3.2, alpha=0.6)),
        ('demp/penalty_scale', 'penalty times', _GREEN, dict(linewidth=1.6, linestyle=(0, (4, 2)))),
    ):
        iters, values = _series(scalars, key)
        if not iters.size:
            continue
        side = _right_axes(axes) if drawn_left else axes
        drawn_left = True
        side.plot(iters, values, color=colour, label=label, gid=key, **style)
        side.set_ylim(0, 1.12 * values.max() or 1.0)
        side.set_ylabel(label, color=colour)
        # An offset text ("1e-5") would stand where the legend is.
        side.yaxis.set_major_formatter('{x:g}')


_PANELS = (  # from top to bottom
    dict(title='Loss and accuracy', keys=('loss', 'coco/bbox_mAP'), draw=_draw_loss, height=3.1),
    dict(
        title='Sparsity',
        keys=(
            'demp/macs_left',
            'demp/channels_left',
            'sparsity/flops_sparsity',
            'sparsity/collapsed_fraction',
        ),
        draw=_draw_sparsity,
        height=2.5,
    ),
    dict(
        title='Penalty and noise',
        keys=('demp/strength', 'demp/penalty_scale'),
        draw=_draw_schedule,
        height=1.8,
    ),
)


def _series(scalars, key):
    """(iterations, values) of the records that hold a finite value under ``key``.

    Float arrays of one length, in order of iteration.
    """
    pairs = sorted(
        (record['iter'], record[key])
        for record in scalars
        if isinstance(record.get(key), (int, float)) and math.isfinite(record[key])
    )
    return tuple(np.array(pairs, dtype=float).reshape(-1, 2).T)


def _smooth(values):
    """Centred moving average over about a fifteenth of the record, of the same length.

    At the ends it is over what is there.
    """
    reach = max(1, len(values) // 30)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _mark_prune_events(grid, scalars):
    iters, removed = _series(scalars, 'demp/channels_removed')
    events = [(x, int(count)) for x, count in zip(iters, removed) if count > 0]
    for axes in grid:
        for x, _ in events:
            axes.axvline(
                x, color=_GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=0, gid='prune event'
            )
    for x, count in events:
        grid[0].annotate(
            f'-{count}',
            (x, 1),
            xycoords=('data', 'axes fraction'),
            xytext=(2, -2),
            textcoords='offset points',
            fontsize=8,
            color='#555555',
            va='top',
            ha='left',
            rotation=90,
            gid='prune label',
        )
    if events:
        total = sum(count for _, count in events)
        grid[0].plot(
            [],
            [],
            color=_GREY,
            linewidth=1,
            linestyle=(0, (1, 2)),
            label=f'prune events: {len(events)}, channels removed: {total:,}',
        )


def _style(axes):
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='#e6e6e6', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.margins(x=0)


def _right_axes(axes):
    right = axes.twinx()
    right.spines[['top', 'left']].set_visible(False)
    right.spines['right'].set_visible(True)
    right.tick_params(labelsize=9)
    return right


def _add_legend(axes):
    """One legend for the panel and its twin, at the right above the axes, where no curve runs."""
    handles, labels = axes.get_legend_handles_labels()
    for sibling in axes.figure.axes:
        if sibling is not axes and sibling.get_subplotspec() == axes.get_subplotspec():
            twin_handles, twin_labels = sibling.get_legend_handles_labels()
            handles, labels = handles + twin_handles, labels + twin_labels
    axes.legend(
        handles,
        labels,
        loc='lower right',
        bbox_to_anchor=(1, 1),
        ncols=len(labels),
        borderaxespad=0.2,
        fontsize=9,
        frameon=False,
        handlelength=1.7,
        columnspacing=1.4,
    )


def _save(figure, out_path):
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_path, format='png', dpi=_DPI)
