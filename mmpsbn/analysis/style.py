"""How pictures look: on paper in PNG, and in SVG in the colours of the page.

Not pyplot: a bare ``Figure`` has no global state and needs no display.
"""

import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Middle tones, which stand out on white and on black: points are drawn as pixels in SVG too.
BLUE, RED, ORANGE, GREEN, GREY = '#3b82c4', '#d6455d', '#e08a1e', '#3a9d6b', '#8b929c'
PURPLE = '#8e5bb5'
SERIES = (BLUE, RED, GREEN, ORANGE, PURPLE, '#2aa5b0', '#b0587a', GREY)
# Replaced in SVG by variables of the page, which has a dark form.
INK, GRID = '#2b3038', '#dfe3e8'
_VARIABLES = {INK: 'var(--ink)', GRID: 'var(--grid)'}
_RC = {
    'font.size': 10,
    'axes.titlesize': 10.5,
    'axes.labelsize': 10,
    'legend.fontsize': 9,
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': GREY,
    'axes.titlecolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'svg.fonttype': 'none',  # text stays text, in the page's font
    'svg.hashsalt': 'mmpsbn',  # the same page for the same numbers
}
# As wide as a phone: there the page shows it as it is, elsewhere larger.
WIDTH, HEIGHT = 5.3, 3.3  # inches
_LEGEND_CHARACTERS = 46  # that fit beside each other
_RASTER_FROM = 3000  # points; more of them are one picture in the SVG
PNG_DPI = 120


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = HEIGHT, **kwargs
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, shape (rows, columns). Sizes in inches."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=150, layout='constrained')
        grid = figure.subplots(rows, columns, squeeze=False, **kwargs)
    for axes in grid.flat:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, grid


def scatter(axes: Axes, x, y, *, colour: str, label: str, gid: str, size: float) -> None:
    style = dict(s=size, color=colour, alpha=0.75, linewidths=0, zorder=3)
    axes.scatter(x, y, label=label, gid=gid, rasterized=len(x) > _RASTER_FROM, **style)


def legend(axes: Axes) -> None:
    """Above the axes, where no data is; in two rows if the words are long."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 4 if sum(map(len, labels)) <= _LEGEND_CHARACTERS else 2
    style = dict(loc='lower left', bbox_to_anchor=(0, 1), frameon=False, markerscale=1.6)
    style |= dict(handlelength=1.2, handletextpad=0.5, columnspacing=1.1, borderaxespad=0.1)
    with matplotlib.rc_context(_RC):
        axes.legend(handles, labels, ncols=columns, **style)


def svg_of(figure: Figure, title: str) -> str:
    """Inline SVG that refers to nothing outside and takes ink and grid from the page."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    with matplotlib.rc_context(_RC | {'svg.hashsalt': title}):
        figure.savefig(buffer, format='svg', metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # groups are numbered from 1 in every picture, and equal images have equal names; nothing
    # refers to either, and on a page a name stands once
    return re.sub(r'(<g|<image)([^>]*?) id="[^"]*"', r'\1\2', svg)


def save_png(figure: Figure, out_path: str | Path) -> None:
    """Write a PNG of 120 pixels an inch; its folder is made."""
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_path, format='png', dpi=PNG_DPI)


def plain(text: str) -> str:
    """As it is, where matplotlib would read mathematics between dollars."""
    return text.replace('$', r'\$')
