"""The pictures of the experiments: lines in panels side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .measured import Numbers, Quantity, grid, over_seeds

_COLOURS = ('#b2182b', '#d9730d', '#2166ac', '#2c8c5a', '#7b3294', '#8a8a8a')
_STYLES = ('-', '--', ':')

Lines = Mapping[str, Sequence[tuple[float, float]]]  # label -> points (x, y)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x, y: what the axes say.
        lines: numbers by arm -> label -> points (x, y).
        x_scale: ``'linear'``, ``'log'``, without points at 0, or ``'count'``, whole numbers.
    """

    x: str
    y: str
    lines: Callable[[Numbers], Lines]
    x_scale: str = 'linear'


def over_steps(x: str, y: Quantity) -> Panel:
    """A line an arm, over the number of the round or layer from 1."""

    def lines(numbers: Numbers) -> Lines:
        return {
            name: [
                (at, y.drawn(step))
                for at, step in enumerate(arm.steps, 1)
                if y.of(step) is not None
            ]
            for name, arm in numbers.items()
        }

    return Panel(x, y.label, lines, 'count')


def over_columns(x: str, y: Quantity) -> Panel:
    """A line a row of :func:`.measured.grid`, over the numbers that name its columns."""

    def lines(numbers: Numbers) -> Lines:
        return {
            row: sorted((float(column), y.drawn(arm)) for column, arm in arms.items())
            for row, arms in grid(numbers).items()
        }

    return Panel(x, y.label, lines, 'log')


def against(x: Quantity, y: Quantity) -> Panel:
    """A line a row of :func:`.measured.grid`, through its arms in their order, of which those of
    several seeds are one."""

    def lines(numbers: Numbers) -> Lines:
        return {
            row: [(x.drawn(arm), y.drawn(arm)) for arm in arms.values()]
            for row, arms in grid(over_seeds(numbers)).items()
        }

    return Panel(x.label, y.label, lines)


def draw(panels: Sequence[Panel], numbers: Numbers) -> Figure:
    """One legend for all: a label has the same colour in each panel."""
    drawn = [panel.lines(numbers) for panel in panels]
    labels = list(dict.fromkeys(label for lines in drawn for label in lines))
    figure = Figure(figsize=(4.5 * len(panels), 3.6), dpi=120, layout='constrained')
    for axes, panel, lines in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, drawn):
        for label, points in lines.items():
            number = labels.index(label)
            axes.plot(
                *zip(*((x, y) for x, y in points if x or panel.x_scale != 'log')),
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
                marker='o',
                markersize=4,
                label=label,
            )
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        if panel.x_scale == 'log':
            axes.set_xscale('log')
            values = sorted({x for points in lines.values() for x, _ in points if x})
            axes.set_xticks(values, [f'{x:g}' for x in values])
            axes.minorticks_off()
        elif panel.x_scale == 'count':
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
        axes.legend(frameon=False, fontsize='small')
    return figure
