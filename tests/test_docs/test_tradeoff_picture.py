"""docs/examples/draw_tradeoff.py draws the picture of the README from docs/results.md."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / 'docs/examples'


@pytest.fixture
def draw_tradeoff(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import draw_tradeoff

    return draw_tradeoff


TABLE = """
## Before
| method, MACs left | wrong |
### Reaching a part of the MACs
Words.

| method, MACs left | One, seeds 0, 1 | mean | Other, seed 0 | mean |
|---|---|---|---|---|
| dense, 100 % | 0.5, 0.6 | 0.55 | 0.4 | |
| DemPHook, 12 % | 0.3 | | 0.2, 0.3 | 0.25 |
| Torch-Pruning, 23.5 % | cannot trace it | | 0.1 | |

Words.
| method, MACs left | wrong |
"""


def test_rows_are_read_by_method_and_share(draw_tradeoff):
    assert draw_tradeoff.tables(TABLE) == {
        'One, seeds 0, 1': dict(dense={100: [0.5, 0.6]}, DemPHook={12: [0.3]}),
        'Other, seed 0': {
            'dense': {100: [0.4]},
            'DemPHook': {12: [0.2, 0.3]},
            'Torch-Pruning': {23.5: [0.1]},
        },
    }


def test_the_picture_shows_the_means_of_the_page(draw_tradeoff, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(draw_tradeoff, 'save_png', lambda figure, path: drawn.append(figure))
    monkeypatch.setattr('sys.argv', ['draw_tradeoff.py', str(tmp_path)])
    draw_tradeoff.main()
    (figure,) = drawn
    left, right = figure.axes
    for axes in (left, right):
        lines = {line.get_label(): line for line in axes.lines}
        assert lines['DemPHook'].get_xdata().tolist() == [12, 25, 50, 100]
    page = draw_tradeoff.RESULTS.read_text()
    means = [row.split('|')[3] for row in page.splitlines() if row.startswith('| DemPHook, ')]
    shown = left.lines[1].get_ydata()
    assert [f'{mean:.3f}' for mean in shown[2::-1]] == [mean.strip() for mean in means]
