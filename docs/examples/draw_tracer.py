"""Draw what the tracer finds in three small networks: a residual block, a concatenation and a
channel shuffle. The cells of a picture are those of a real ``trace_channel_graph``.

    python docs/examples/draw_tracer.py docs
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import nn

from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.graph import ChannelGraph, trace_channel_graph

COLOURS = ('#f2a541', '#5b9bd5', '#7cb66b', '#c77ab8')
FIXED = '#e3e6ea'


class Residual(nn.Module):
    """x = stem(image).relu()
    y = conv2(norm(conv1(x)).relu())
    return head((x + y).relu())"""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.conv1 = nn.Conv2d(5, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, image):
        x = self.stem(image).relu()
        y = self.conv2(self.norm(self.conv1(x)).relu())
        return self.head((x + y).relu())


class Concatenation(nn.Module):
    """a = left(image).relu()
    b = right(image).relu()
    return head(cat([a, b]))"""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 3, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, image):
        a = self.left(image).relu()
        b = self.right(image).relu()
        return self.head(torch.cat([a, b], 1))


class Shuffle(nn.Module):
    """x = stem(image).relu()                       # (N, 8, H, W)
    x = x.view(N, 2, 4, H, W).transpose(1, 2)    # 0 4 1 5 2 6 3 7
    a, b = x.reshape(N, 8, H, W).chunk(2)
    return head_a(a), head_b(b)"""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head_a = nn.Conv2d(4, 2, 1)
        self.head_b = nn.Conv2d(4, 2, 1)

    def forward(self, image):
        x = self.stem(image).relu()
        count, channels, height, width = x.shape
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2)
        a, b = x.reshape(count, channels, height, width).chunk(2, 1)
        return self.head_a(a), self.head_b(b)


def cells_of(graph: ChannelGraph) -> dict[tuple[str, str], dict[int, tuple[str, int]]]:
    """(layer, 'reads' or 'writes') -> position there -> (group, channel of the group)."""
    cells: dict[tuple[str, str], dict[int, tuple[str, int]]] = {}
    for group in graph.groups.values():
        for member in group.members:
            side = 'reads' if member in group.readers else 'writes'  # a norm writes what it reads
            here = cells.setdefault((member.layer, side), {})
            here |= {i: (group.name, c) for i, c in zip(member.index, member.channel)}
    return cells


def draw(model: nn.Module, removed: tuple[str, int], path: Path) -> None:
    """One row a layer: what it reads and what it writes, in the colour of the group, with the
    number of the channel in it; the cells that go with ``removed`` are crossed out."""
    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    graph = trace_channel_graph(model, torch.randn(1, 3, 8, 8), call_with)
    cells, colour_of = cells_of(graph), dict(zip(graph.groups, COLOURS))
    layers = list(model.named_children())
    figure, ax = plt.subplots(figsize=(7.2, 1.6 + 0.42 * len(layers)))
    for row, (layer, module) in enumerate(layers):
        ax.text(-0.4, row, layer, ha='right', va='center', family='monospace', fontsize=10)
        if isinstance(module, nn.Conv2d):
            sides = dict(reads=(0, module.in_channels), writes=(9, module.out_channels))
        else:
            sides = dict(writes=(9, module.num_features))
        for side, (left, size) in sides.items():
            for position in range(size):
                place = cells.get((layer, side), {}).get(position)
                x = left + position
                colour = FIXED if place is None else colour_of[place[0]]
                ax.add_patch(plt.Rectangle((x, row - 0.38), 0.9, 0.76, color=colour))
                if place is not None:
                    ax.text(x + 0.45, row, place[1], ha='center', va='center', fontsize=9)
                if place == removed:
                    ax.plot((x, x + 0.9), (row + 0.38, row - 0.38), color='#b3001b', lw=2)
    for left, text in ((0, 'input channels'), (9, 'output channels')):
        ax.text(left, -0.8, text, fontsize=9, color='#555')
    ax.text(0, len(layers) - 0.1, _code(model), va='top', family='monospace', fontsize=8.5)
    ax.set(xlim=(-2.5, 17.5), ylim=(len(layers) + 1.5, -1.2))
    ax.axis('off')
    figure.savefig(path, dpi=100, bbox_inches='tight')
    plt.close(figure)


def _code(model: nn.Module) -> str:
    return '\n'.join(line.strip() for line in type(model).__doc__.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='the folder for the three pictures')
    out = parser.parse_args().out
    draw(Residual(), ('stem', 3), out / 'tracer_residual.png')
    draw(Concatenation(), ('right', 1), out / 'tracer_concatenation.png')
    draw(Shuffle(), ('stem', 1), out / 'tracer_shuffle.png')


if __name__ == '__main__':
    main()
