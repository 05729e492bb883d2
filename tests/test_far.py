"""The tests on a device that is not the CPU, each file in a process of its own: autograd makes a
queue for each device when it first runs, and ``far`` must be there by then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.utils import digit_version

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    'path',
    [
        'test_engine/runs_on_far.py',
        'test_layers/layers_on_far.py',
        'test_pruning/surgery_on_far.py',
    ],
)
def test_on_far(path):
    env = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(TESTS / path)]
    run = subprocess.run(command, env=env, cwd=TESTS.parent, capture_output=True, text=True)
    nothing_to_run = digit_version(torch.__version__) < digit_version('2.4')  # see tests/far
    assert run.returncode == (5 if nothing_to_run else 0), run.stdout[-5000:]
