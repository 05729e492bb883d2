"""Mixed precision without a loss scale, also on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs the forward pass under autocast to bfloat16, whose range needs no loss scale.

    MMEngine's ``AmpOptimWrapper`` refuses the CPU. Arguments are those of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = get_device()
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
