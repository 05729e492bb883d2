"""The pictures of the experiments."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLOURS = ('#b2182b', '#d9730d', '#2166ac', '#2c8c5a', '#7b3294', '#8a8a8a')


def draw_by_round(numbers: Mapping[str, dict], path: Path) -> None:
    """FLOPs sparsity and accuracy over the rounds, a line an arm."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2)
    for colour, (name, arm) in zip(_COLOURS, numbers.items()):
        rounds = range(1, len(arm['top1']) + 1)
        style = dict(color=colour, marker='o', markersize=4, label=name)
        left.plot(rounds, [100 * s for s in arm['flops_sparsity']], **style)
        right.plot(rounds, arm['top1'], **style)
    left.set_ylabel('FLOPs sparsity, %')
    right.set_ylabel('top-1 accuracy, %')
    left.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel('round')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
    left.set_ylim(bottom=0)
    figure.savefig(path)
