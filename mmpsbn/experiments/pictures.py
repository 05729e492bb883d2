"""The pictures of the experiments: lines in panels side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLOURS = ('#b2182b', '#d9730d', '#2166ac', '#2c8c5a', '#7b3294', '#8a8a8a')
_STYLES = ('-', '--', ':')


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x, y: what the axes say.
        lines: label -> points (x, y).
        x_scale: ``'linear'``, ``'log'`` or ``'count'``, whole numbers.
    """

    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_scale: str = 'linear'


def draw(panels: Sequence[Panel]) -> Figure:
    """One legend for all: a label has the same colour in each panel."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    figure = Figure(figsize=(4.5 * len(panels), 3.6), dpi=120, layout='constrained')
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for label, points in panel.lines.items():
            number = labels.index(label)
            axes.plot(
                *zip(*points),
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
            values = sorted({x for points in panel.lines.values() for x, _ in points})
            axes.set_xticks(values, [f'{x:g}' for x in values])
            axes.minorticks_off()
        elif panel.x_scale == 'count':
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
        axes.legend(frameon=False, fontsize='small')
    return figure
