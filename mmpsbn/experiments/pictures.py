"""The pictures of the experiments: lines in panels, one for each number drawn."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .measure import label_of
from .tables import Measured, Numbers, Spread, grid

_COLOURS = ('#b2182b', '#d9730d', '#2166ac', '#2c8c5a', '#7b3294', '#8a8a8a')
_STYLES = ('-', '--', ':')
_IN_A_ROW = 4  # panels

Points = Sequence[tuple[float | Spread | None, Spread | None]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x: what the axis says.
        y: place of the number that is drawn, as in a cell without braces.
        lines: numbers by arm, and y -> label -> points; those with None are left out.
        x_scale: ``'linear'``, ``'log'``, without points at 0, or ``'count'``, whole numbers.
        x_field: place of the number on the x axis, if it is one.
    """

    x: str
    y: str
    lines: Callable[[Numbers, str], Mapping[str, Points]]
    x_scale: str = 'linear'
    x_field: str | None = None

    @property
    def fields(self) -> list[str]:
        return [name for name in (self.x_field, self.y) if name]


def over_steps(x: str, *ys: str, rows: Collection[str] | None = None) -> list[Panel]:
    """A line an arm, over the number of the round or layer from 1; ``rows``: of these of
    :func:`.tables.grid` alone."""

    def lines(numbers: Numbers, y: str) -> dict[str, Points]:
        return {
            name: [(at + 1, arm.drawn(y, at)) for at in range(arm.steps([y]))]
            for name, arm in numbers.items()
            if rows is None or name.rpartition(', ')[0] in rows
        }

    return [Panel(x, y, lines, 'count') for y in ys]


def over_stages(*ys: str) -> list[Panel]:
    """A line for each arm that starts from another, from that one's number to its own."""

    def lines(numbers: Numbers, y: str) -> dict[str, Points]:
        arms = {name: arm for name, arm in numbers.items() if arm.start}
        return {n: [(1, arm.start.drawn(y)), (2, arm.drawn(y))] for n, arm in arms.items()}

    return [Panel('stage: pretrained, finetuned', y, lines, 'count') for y in ys]


def over_columns(x: str, *ys: str) -> list[Panel]:
    """A line a row of :func:`.tables.grid`, over the numbers that name its columns."""

    def lines(numbers: Numbers, y: str) -> dict[str, Points]:
        return {
            row: [(float(at), arms[at].drawn(y)) for at in sorted(arms, key=float)]
            for row, arms in grid(numbers).items()
        }

    return [Panel(x, y, lines, 'log') for y in ys]


def against(x: str, *ys: str) -> list[Panel]:
    """A line a row of :func:`.tables.grid`, through its arms in their order, and in the rounds
    of each where these are measured."""

    def points(arm: Measured, y: str) -> Points:
        steps = range(arm.steps([x, y])) or [-1]
        return [(arm.drawn(x, at), arm.drawn(y, at)) for at in steps]

    def lines(numbers: Numbers, y: str) -> dict[str, Points]:
        rows = grid(numbers).items()
        return {row: [p for arm in arms.values() for p in points(arm, y)] for row, arms in rows}

    return [Panel(label_of(x)[0], y, lines, x_field=x) for y in ys]


def draw(panels: Sequence[Panel], numbers: Numbers) -> Figure:
    """One legend for all, beside them: a label has the same colour in each panel. Of several seeds
    the means, in a band of a standard deviation to both sides."""
    drawn = [panel.lines(numbers, panel.y) for panel in panels]
    labels = list(dict.fromkeys(label for lines in drawn for label in lines))
    rows = math.ceil(len(panels) / _IN_A_ROW)
    columns = math.ceil(len(panels) / rows)
    figure = Figure(figsize=(4.5 * columns + 2, 3.6 * rows), dpi=120, layout='constrained')
    for at, (panel, lines) in enumerate(zip(panels, drawn), 1):
        axes = figure.add_subplot(rows, columns, at)
        for label, points in lines.items():
            number = labels.index(label)
            colour = _COLOURS[number % len(_COLOURS)]
            style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
            _draw_line(axes, panel, points, color=colour, linestyle=style, label=label)
        axes.set_xlabel(panel.x)
        axes.set_ylabel(label_of(panel.y)[0])
        if panel.x_scale == 'log':
            axes.set_xscale('log')
            ticks = sorted({x for line in axes.lines for x in line.get_xdata()})
            axes.set_xticks(ticks, [f'{x:g}' for x in ticks])
            axes.minorticks_off()
        elif panel.x_scale == 'count':
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    figure.legend(
        handles=[handles[label] for label in labels],
        loc='outside right center',
        frameon=False,
        fontsize='small',
    )
    return figure


def _draw_line(axes: Axes, panel: Panel, points: Points, **look: str) -> None:
    x_factor = label_of(panel.x_field)[1] if panel.x_field else 1
    y_factor = label_of(panel.y)[1]
    log = panel.x_scale == 'log'
    known = [(x, y) for x, y in points if None not in (x, y) and (x or not log)]
    xs = [x_factor * (x.mean if isinstance(x, Spread) else x) for x, _ in known]
    means = [y_factor * y.mean for _, y in known]
    axes.plot(xs, means, marker='o', markersize=4, **look)
    if any(len(y.values) > 1 for _, y in known):
        stds = [y_factor * y.std for _, y in known]
        low, high = zip(*((mean - std, mean + std) for mean, std in zip(means, stds)))
        axes.fill_between(xs, low, high, color=look['color'], alpha=0.2, linewidth=0)
