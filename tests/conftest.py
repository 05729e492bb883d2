"""What all tests share: one thread, reproducible examples, ``import toy``."""

import sys
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
settings.register_profile('mmpsbn', deadline=None, max_examples=60, derandomize=True)
settings.load_profile('mmpsbn')
