"""Training logs side by side: one panel a quantity, one colour a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .plots import _save, _series, _smooth, read_scalars
from .report.page import Head, Picture, Row, Section, Table, render_page, shown
from .report.style import BLUE, GREEN, GREY, INK, ORANGE, RED, legend, new_figure, plain

_COLOURS = (BLUE, RED, GREEN, ORANGE, '#8e5bb5', '#2aa5b0', '#b0587a', GREY)
_COLUMNS = 2
_FEW = 12  # points; so few are marked
# key -> what stands above its panel
_TITLES = {
    'loss': 'Loss',
    'coco/bbox_mAP': 'COCO mAP',
    'accuracy/top1': 'Top-1 accuracy, %',
    'sparsity/collapsed': 'Collapsed filters',
    'sparsity/collapsed_fraction': 'Collapsed filters, share',
    'sparsity/dead_fraction': 'Dead channels, share',
    'sparsity/mostly_zero_fraction': 'Channels 0 on over 99 %, share',
    'sparsity/hardly_active_fraction': 'Channels with Φ(b/|γ|) < 1 %, share',
    'sparsity/flops_sparsity': 'FLOPs sparsity',
    'sparsity/weight_sparsity': 'Weight sparsity',
    'sparsity/universality': 'Universality, mean',
    'sparsity/revived': 'Channels revived',
    'sparsity/dead_overlap': 'Overlap with those ever dead',
    'demp/macs_left': 'MACs left',
    'demp/channels_left': 'Channels left',
}
_SHARES = ('_fraction', '_sparsity', '_left', 'universality', 'overlap')


def read_runs(paths: Sequence[str | Path]) -> dict[str, list[dict]]:
    """Name of a run -> its records, as :func:`.plots.read_scalars` returns them.

    Args:
        paths: ``scalars.json``, or a work dir, of which the newest log is read.

    Raises:
        FileNotFoundError: no log there.
        ValueError: a path is given twice, or a log is broken.
    """
    logs = [_log_in(Path(path)) for path in paths]
    if len(set(logs)) < len(logs):
        twice = next(log for log in logs if logs.count(log) > 1)
        raise ValueError(f'{twice} is given twice')
    # <work_dir>/<timestamp>/vis_data/scalars.json
    names = [log.parents[2].name if log.parent.name == 'vis_data' else log.stem for log in logs]
    names = names if len(set(names)) == len(names) else [str(log) for log in logs]
    return {name: read_scalars(log) for name, log in zip(names, logs)}


def _log_in(path: Path) -> Path:
    path = path.resolve()
    if not path.is_dir():
        return path
    place = 'vis_data/scalars.json'
    logs = sorted(path.glob(f'*/{place}')) or sorted(path.glob(place))
    if not logs:
        raise FileNotFoundError(f'no training log in {path}: a work dir has <timestamp>/{place}')
    return logs[-1]  # a timestamp sorts as time does


def quantities(runs: Mapping[str, list[dict]]) -> list[str]:
    """Keys to draw, of those that some record has a finite value of: loss and scores, then all
    ``sparsity/*``, then what pruning left.

    Raises:
        ValueError: there is none.
    """
    present = {
        key
        for records in runs.values()
        for record in records
        for key, value in record.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    known = [key for key in _TITLES if key in present]
    others = sorted(key for key in present if key.startswith('sparsity/') and key not in _TITLES)
    if not known and not others:
        raise ValueError(f'nothing to plot: no loss, score or sparsity/* in {", ".join(runs)}')
    return known + others


def write_log_picture(runs: Mapping[str, list[dict]], out_path: str | Path) -> None:
    """A PNG with all panels, or a self-contained HTML page, by the suffix.

    Raises:
        ValueError: another suffix, or nothing to plot.
    """
    out_path = Path(out_path)
    if out_path.suffix not in ('.png', '.html'):
        raise ValueError(f'--out must end in .png or .html, got {str(out_path)!r}')
    if out_path.suffix == '.png':
        _save(build_log_figure(runs), out_path)
        return
    page = _page(runs)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    out_path.write_text(page, encoding='utf-8')


def build_log_figure(runs: Mapping[str, list[dict]]) -> Figure:
    """One panel a quantity, over iterations; prune events are dotted. A line's gid is
    ``<run> <key>``. Raises ValueError where there is nothing to plot."""
    keys = quantities(runs)
    rows = math.ceil(len(keys) / _COLUMNS)
    figure, grid = new_figure(rows, _COLUMNS, width=10, height=2.3 * rows + 0.4)
    for axes, key in zip(grid.flat, keys):
        draw_quantity(axes, key, runs)
        axes.set_title(plain(_TITLES.get(key, key)), loc='left', fontsize=10.5, color=INK)
    for axes in grid.flat[len(keys) :]:
        axes.remove()
    if len(runs) > 1:
        figure.legend(
            handles=[Line2D([], [], color=_colour(k), label=plain(n)) for k, n in enumerate(runs)],
            loc='outside upper left',
            ncols=min(len(runs), 4),
            frameon=False,
            fontsize=9,
        )
    return figure


def draw_quantity(axes: Axes, key: str, runs: Mapping[str, list[dict]]) -> None:
    """What each run logged under a key, smoothed if it is a loss."""
    share = key.endswith(_SHARES)
    for number, (name, records) in enumerate(runs.items()):
        colour = _colour(number)
        iters, values = _series(records, key)
        values = 100 * values if share else values
        if not len(values):
            continue
        if key == 'loss':
            axes.plot(iters, values, color=colour, alpha=0.25, linewidth=0.8)
            values = _smooth(values)
        marker = 'o' if len(iters) < _FEW else None
        style = dict(color=colour, linewidth=1.6, marker=marker, markersize=4)
        axes.plot(iters, values, label=plain(name), gid=f'{name} {key}', **style)
        events, removed = _series(records, 'demp/channels_removed')
        for event in events[removed > 0]:
            axes.axvline(event, color=colour, linewidth=0.7, alpha=0.5, linestyle=(0, (1, 2)))
    axes.set_xlim(0, 1.01 * max(record['iter'] for records in runs.values() for record in records))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if key != 'loss':
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    elif axes.dataLim.ymin > 0:
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')  # plain numbers also between the decades
        axes.yaxis.set_minor_formatter('{x:g}')
        axes.tick_params(axis='y', which='both', labelsize=8)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))


def _page(runs: Mapping[str, list[dict]]) -> str:
    keys = quantities(runs)
    pictures = []
    for key in keys:
        figure, ((axes,),) = new_figure(height=2.7)
        draw_quantity(axes, key, runs)
        axes.set_xlabel('iteration')
        if len(runs) > 1:
            legend(axes)
        caption = 'Faint: as logged; strong: its moving average.' if key == 'loss' else key
        pictures.append(Picture(key, _TITLES.get(key, key), caption, figure))
    rows = []
    for name, records in runs.items():
        last = [_series(records, key)[1][-1:] for key in keys]
        rows.append(Row((name, *(_number(v[0]) if len(v) else '' for v in last))))
    heads = (Head('run', text=True), *(Head(_TITLES.get(key, key), key) for key in keys))
    return render_page(
        title='Training log' if len(runs) == 1 else 'Training logs',
        subtitle=', '.join(runs),
        pictures=pictures,
        sections=[Section('At the end', table=Table(heads, tuple(rows)), label='Last values')],
    )


def _number(value: float) -> str:
    return shown(int(value) if value == int(value) else float(value))


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
