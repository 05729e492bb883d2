"""Draw the first table of docs/results.md, "Reaching a part of the MACs": mAP against MACs.

python docs/examples/draw_tradeoff.py docs
"""

import argparse
import statistics
from pathlib import Path

from matplotlib.axes import Axes

from mmpsbn.analysis.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save_png

RESULTS = Path(__file__).parents[1] / 'results.md'
DENSE = 'dense'
LOOKS = {  # of the methods that are drawn: colour and marker with line
    'DemPHook': (BLUE, 'o-'),
    'Torch-Pruning': (PURPLE, '^-.'),
    'cut once by `random`': (ORANGE, 's'),
    'narrow from random weights': (GREEN, 'D'),
}

# Method -> MACs left in percent -> mAP of each seed.
Scores = dict[str, dict[float, list[float]]]


def tables(page: str) -> dict[str, Scores]:
    """Of each detector, which has a column of scores and one of their means."""
    lines = page.partition('### Reaching a part of the MACs')[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('| method, MACs left |'))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith('|'))
    head, _, *rows = (
        [cell.strip() for cell in line.strip('|').split('|')] for line in lines[start:end]
    )
    found: dict[str, Scores] = {}
    for column in range(1, len(head), 2):
        scores: Scores = {}
        for name, *cells in rows:
            method, _, left = name.rpartition(', ')
            values = [float(value) for value in cells[column - 1].split(', ') if '.' in value]
            if values:
                scores.setdefault(method, {})[float(left.removesuffix(' %'))] = values
        found[head[column]] = scores
    return found


def draw(axes: Axes, title: str, scores: Scores) -> None:
    """Means, and a line from the least to the largest of the seeds."""
    (dense,) = scores[DENSE].values()
    level = dict(color=GREY, linewidth=1, linestyle=':', label='dense, trained as long')
    axes.axhline(statistics.mean(dense), **level)
    for method, (colour, look) in LOOKS.items():
        by_share = dict(scores.get(method, {}))
        if method == 'DemPHook':
            by_share[100.0] = dense
        if not by_share:
            continue
        shares = sorted(by_share)
        means = [statistics.mean(by_share[share]) for share in shares]
        label = method.replace('by `random`', 'at random')
        axes.plot(shares, means, look, color=colour, label=label, markersize=5)
        least, largest = ([end(by_share[share]) for share in shares] for end in (min, max))
        axes.vlines(shares, least, largest, color=colour, linewidth=1)
    axes.set(title=title, xlabel='MACs left, %', ylabel='mAP', xlim=(5, 105))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder of the picture')
    out = parser.parse_args().out
    found = tables(RESULTS.read_text())
    figure, grid = new_figure(1, len(found), width=9.2, height=3.6, sharey=True)
    for axes, (title, scores) in zip(grid[0], found.items()):
        draw(axes, title.partition(', seeds')[0], scores)
    grid[0][-1].legend(frameon=False, fontsize=8, loc='upper right')
    save_png(figure, out / 'finetune_tradeoff_small.png')


if __name__ == '__main__':
    main()
