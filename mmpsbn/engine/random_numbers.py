"""Random numbers: what looks at a model or its data takes none of the training's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import nn

from ..pruning.forward import frozen_rng


@contextmanager
def frozen_random_numbers(model: nn.Module) -> Iterator[None]:
    """Those of ``random``, of NumPy, which transforms and preprocessors draw, and of torch, on
    the devices of ``model`` too: from a seed within and as if none had been drawn afterwards."""
    states = random.getstate(), np.random.get_state()
    try:
        random.seed(0)
        np.random.seed(0)
        with frozen_rng(model):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
