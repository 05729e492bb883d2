"""What all tests share: one thread, reproducible examples, ``import toy``."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
settings.register_profile('mmpsbn', deadline=None, max_examples=60, derandomize=True)
settings.load_profile('mmpsbn')


def pytest_addoption(parser):
    parser.addoption(
        '--whole-zoo',
        action='store_true',
        help="every family of mmdet's and mmpretrain's zoos, with -m slow; see docs/prune_zoo.md",
    )


_SCOPES = dict(DefaultScope._instance_dict)


@pytest.fixture(autouse=True)
def own_default_scope():
    """A runner or a config, also in a fixture of a whole module, sets MMEngine's default scope
    for the process; not here."""
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(_SCOPES)


@pytest.fixture(autouse=True)
def own_visualizer():
    """The current one is that whose name was first used last: mmdet's is always called the same,
    and hooks of a second detector in a process would get that of a run in between."""
    Visualizer._instance_dict.clear()
