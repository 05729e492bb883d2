"""The three pictures of the tracer in docs/architecture.md are drawn from real traces."""

from pathlib import Path

import pytest
import torch

from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.graph import trace_channel_graph

EXAMPLES = Path(__file__).parents[2] / 'docs/examples'


@pytest.fixture
def draw_tracer(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import draw_tracer

    return draw_tracer


def numbers(cells, layer, side):
    """(group, channel) of each position of a layer, in order."""
    return [cells[layer, side][k] for k in sorted(cells[layer, side])]


@pytest.mark.parametrize(
    'network, layer, side, expected',
    [
        ('Residual', 'conv2', 'writes', [('stem', k) for k in range(5)]),
        ('Residual', 'norm', 'writes', [('conv1', k) for k in range(4)]),
        (
            'Concatenation',
            'head',
            'reads',
            [*(('left', k) for k in range(3)), *(('right', k) for k in range(4))],
        ),
        ('Shuffle', 'stem', 'writes', [('stem', k % 2) for k in range(8)]),
        ('Shuffle', 'head_b', 'reads', [('stem', k) for k in (0, 0, 1, 1)]),
    ],
)
def test_cells_are_those_of_the_trace(draw_tracer, network, layer, side, expected):
    graph = trace_channel_graph(getattr(draw_tracer, network)(), torch.randn(1, 3, 8, 8), call_with)
    assert numbers(draw_tracer.cells_of(graph), layer, side) == expected


def test_pictures_are_drawn(draw_tracer, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['draw_tracer.py', str(tmp_path)])
    draw_tracer.main()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f'tracer_{n}.png' for n in ('residual', 'concatenation', 'shuffle')}
