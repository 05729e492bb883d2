"""Theory against simulation in a table and four pictures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip('matplotlib', reason='plots need matplotlib')

from mmpsbn.analysis.theory import compare_theory, comparison_table, decay_curves  # noqa: E402

TOOL = Path(__file__).parents[2] / 'tools' / 'theory.py'


def test_predicted_and_simulated_agree():
    rows = compare_theory(num_samples=20_000, num_walks=2000, num_steps=50, weight_decay=1e-4)
    assert len(rows) == 5 + 3 + 3 + 7
    for row in rows:
        tolerance = 3.5 * row.standard_error if row.standard_error else 1e-9
        assert row.simulated == pytest.approx(row.predicted, abs=tolerance), row.quantity
    lines = comparison_table(rows).splitlines()
    assert len(lines) == 1 + len(rows)
    assert '-0.31831' in lines[3] and ' se' in lines[3]
    assert lines[-1].startswith('Adamax, WD') and ' se' not in lines[-1]


def test_l2_joins_the_gradient_of_each_weight():
    curve = decay_curves(
        'SGD (momentum 0.9)',
        weight_decay=1e-2,
        in_gradient=True,
        gradients=torch.tensor([[0.0, 0.5]], dtype=torch.float64),
    )
    assert curve.tolist() == [[1, 1], pytest.approx([1 - 0.1 * 1e-2, 1 - 0.1 * (0.5 + 1e-2)])]


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=300
    )


def test_the_tool_prints_the_table_and_writes_the_pictures(tmp_path):
    small = ('--samples', '500', '--walks', '200', '--steps', '300', '--mlp-steps', '4')
    result = run('--out', str(tmp_path / 'new'), *small)
    assert result.returncode == 0, result.stderr
    assert 'Theorem 1: K at beta/|gamma| = 0' in result.stdout
    assert 'dead of 400 neurons, 4 steps, seed 0, at' in result.stdout
    for regime in ('gradient noise', 'asymmetric noise', 'symmetric noise', 'SGD'):
        (counts,) = re.findall(rf'^{regime}((?: +\d+)+)$', result.stdout, re.M)
        assert len(counts.split()) == 5  # learning rates
    pictures = sorted((tmp_path / 'new').iterdir())
    names = ['dead_neurons.png', 'scalar_decay.png', 'theorem_one.png', 'walks.png']
    assert [p.name for p in pictures] == names
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (1200, 528)
            assert len(picture.convert('RGB').getcolors(1 << 20)) > 50


def test_the_tool_names_a_bad_number():
    result = run('--walks', '1')
    assert result.returncode == 2 and '--walks must be >= 2, got 1' in result.stderr
    result = run('--mlp-steps', '0')
    assert result.returncode == 2 and '--mlp-steps must be >= 1, got 0' in result.stderr
