"""Training logs side by side: one panel a quantity, one colour a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..functional.checks import is_number
from .logs import series, smooth
from .page import render_page
from .style import GRID, INK, SERIES, legend, new_figure, plain, save_png
from .view import Column, Table, number_text, percent, table_of

_COLUMNS = 2
_FEW = 12  # points; so few are marked
_FAINT = ' (faint: as logged)'
# key -> what stands above its panel
_TITLES = {
    'loss': f'Loss{_FAINT}',
    'coco/bbox_mAP': 'COCO mAP',
    'accuracy/top1': 'Top-1 accuracy, %',
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
    'demp/strength': 'Penalty and noise, share of their peaks',
}
_NO_SCORES = ('sparsity/', 'demp/', 'round/')
_SHARES = ('_fraction', '_sparsity', '_left', 'universality', 'overlap')
# the same curve as its share
_SAID_ELSEWHERE = {'sparsity/collapsed': 'sparsity/collapsed_fraction'}
# what a vertical line is -> its dashes; at the end of a round training begins anew
_EVENTS = {'prune event': (0, (1, 2)), 'end of a round': (0, (5, 3))}
_Runs = Mapping[str, Sequence[dict]]


def quantities(runs: _Runs) -> list[str]:
    """Keys to draw, of those that some record has a finite value of: loss and scores, then all
    ``sparsity/*``, then what pruning left. Raises ValueError where there is none."""
    present = _present(runs)
    known = [key for key in _TITLES if key in present]
    others = sorted(key for key in present if key.startswith('sparsity/') and key not in _TITLES)
    if not known and not others:
        raise ValueError(f'nothing to plot: no loss, score or sparsity/* in {", ".join(runs)}')
    return known + others


def _drawn(runs: _Runs) -> list[str]:
    """The quantities but for those of ``sparsity/*`` that stay at 0, which the table tells; all
    where there are no others."""
    keys = quantities(runs)
    return [
        key
        for key in keys
        if not key.startswith('sparsity/')
        or any(series(records, key)[1].any() for records in runs.values())
    ] or keys


def _present(runs: _Runs) -> set[str]:
    return {
        key
        for records in runs.values()
        for record in records
        for key, value in record.items()
        if is_number(value) and _SAID_ELSEWHERE.get(key) not in record
    }


def write_log_picture(runs: _Runs, out_path: str | Path) -> None:
    """A PNG with all panels, or a self-contained HTML page, by the suffix; either with a table of
    the last values. ``runs`` is what :func:`.logs.read_runs` returns. Raises ValueError for another
    suffix, or where there is nothing to plot."""
    out_path = Path(out_path)
    if out_path.suffix not in ('.png', '.html'):
        raise ValueError(f'--out must end in .png or .html, got {str(out_path)!r}')
    if out_path.suffix == '.png':
        save_png(build_log_figure(runs), out_path)
        return
    page = _page(runs)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    out_path.write_text(page, encoding='utf-8')


def build_log_figure(runs: _Runs) -> Figure:
    """One panel a quantity, over iterations, and the last values. A line's gid is ``<run> <key>``.
    Raises ValueError where there is nothing to plot."""
    keys = _drawn(runs)
    rows = math.ceil(len(keys) / _COLUMNS)
    table = last_values(runs)
    heights = [2.3] * rows + [0.22 * (len(table.rows) + 2)]
    size = dict(width=10, height=sum(heights) + 0.4, gridspec_kw=dict(height_ratios=heights))
    figure, grid = new_figure(rows + 1, _COLUMNS, **size)
    for axes, key in zip(grid.flat, keys):
        draw_quantity(axes, key, runs)
        axes.set_title(plain(_TITLES.get(key, key)), loc='left', fontsize=10.5, color=INK)
    for axes in (*grid[:-1].flat[len(keys) :], *grid[-1, 1:]):
        axes.remove()
    below = grid[-1, 0]
    below.set_subplotspec(below.get_gridspec()[-1, :])
    below.axis('off')
    cells = [list(map(plain, row)) for row in table.rows]
    heads = [plain(column.label) for column in table.columns]
    drawn = below.table(cells, colLabels=heads, loc='center', cellLoc='left', colLoc='left')
    for cell in drawn.get_celld().values():
        cell.set_edgecolor(GRID)
        cell.visible_edges = 'horizontal'
    marks = {}
    for axes in grid[:-1].flat[: len(keys)]:
        for mark, name in zip(*axes.get_legend_handles_labels()):
            marks.setdefault(name, mark)
    names = sorted(marks, key=_EVENTS.__contains__)  # the runs first
    style = dict(loc='outside upper left', ncols=min(len(marks), 4), frameon=False, fontsize=9)
    figure.legend([marks[name] for name in names], names, **style)
    return figure


def draw_quantity(axes: Axes, key: str, runs: _Runs) -> None:
    """What each run logged under a key, smoothed if it is a loss."""
    share = key.endswith(_SHARES)
    for number, (name, records) in enumerate(runs.items()):
        colour = SERIES[number % len(SERIES)]
        iters, values = series(records, key)
        values = 100 * values if share else values
        if not len(values):
            continue
        if key == 'loss':
            axes.plot(iters, values, color=colour, alpha=0.25, linewidth=0.8)
            values = smooth(values)
        style = dict(color=colour, linewidth=1.6, marker='o' if len(iters) < _FEW else None)
        style |= dict(markersize=4, drawstyle='steps-post' if key.endswith('_left') else 'default')
        axes.plot(iters, values, label=plain(name), gid=f'{name} {key}', **style)
    _mark_events(axes, runs)
    axes.set_xlim(0, 1.01 * max(record['iter'] for records in runs.values() for record in records))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if key != 'loss':
        low, high = min(0, axes.dataLim.ymin), axes.dataLim.ymax
        axes.set_ylim(low, high + 0.05 * (high - low) or 1)
    elif axes.dataLim.ymin > 0:
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')  # plain numbers also between the decades
        axes.yaxis.set_minor_formatter('{x:g}')
        axes.tick_params(axis='y', which='both', labelsize=8)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))


def _mark_events(axes: Axes, runs: _Runs) -> None:
    named: set[str] = set()  # once in the legend, whoever's they are
    for number, records in enumerate(runs.values()):
        iters, removed = series(records, 'demp/channels_removed')
        rounds = [r['iter'] for r in records if any(key.startswith('round/') for key in r)]
        for kind, places in zip(_EVENTS, (iters[removed > 0], rounds)):
            style = dict(linewidth=0.9, alpha=0.6, linestyle=_EVENTS[kind])
            style['color'] = SERIES[number % len(SERIES)]
            for place in places:
                axes.axvline(place, label=None if kind in named else kind, gid=kind, **style)
                named.add(kind)


def last_values(runs: _Runs) -> Table:
    """One row a quantity or a score that is not drawn, one column a run."""
    keys = quantities(runs)
    others = sorted(_present(runs).difference(keys))
    keys += [key for key in others if '/' in key and not key.startswith(_NO_SCORES)]
    rows = [
        {
            'quantity': _TITLES.get(key, key).removesuffix(_FAINT),
            **{f'run {k}': _last(records, key) for k, records in enumerate(runs.values())},
        }
        for key in keys
    ]
    columns = [Column('quantity', 'at the end', is_text=True)]
    columns += [Column(f'run {k}', name) for k, name in enumerate(runs)]
    return table_of(rows, columns, 'Last values')


def _last(records: Sequence[dict], key: str) -> str:
    _, values = series(records, key)
    if not len(values):
        return ''
    if key.endswith(_SHARES):
        return percent(values[-1])
    last = float(values[-1])
    return number_text(int(last)) if last.is_integer() else f'{last:.4g}'


def _page(runs: _Runs) -> str:
    keys = _drawn(runs)
    return render_page(
        'logs.html',
        title='Training log' if len(runs) == 1 else 'Training logs',
        subtitle=', '.join(runs),
        last_values=last_values(runs),
        charts=[(key, _TITLES.get(key, key), key) for key in keys],
        figures={key: _chart(key, runs) for key in keys},
    )


def _chart(key: str, runs: _Runs) -> Figure:
    figure, ((axes,),) = new_figure(height=2.7)
    draw_quantity(axes, key, runs)
    axes.set_xlabel('iteration')
    legend(axes)
    return figure
