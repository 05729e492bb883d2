"""Nothing is believed: outputs before and after surgery are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .graph import ForwardFn


class VerificationError(RuntimeError):
    """Surgery changed what the model computes, and was undone.

    Attributes:
        groups: names of the channel groups at fault; empty if only their sum is too large.
    """

    def __init__(self, message: str, groups: list[str]):
        super().__init__(message)
        self.groups = groups


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within, and each module's own mode again afterwards.

    The flags are set directly: ``eval()`` has side effects in mmdet's backbones.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def flatten_tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in flatten_tensors(item)]
    return []


def probe_outputs(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> list[Tensor]:
    """The output tensors of one forward pass in eval mode, full float32 precision."""
    # TF32 kernels round to 10 bits, and another width picks another kernel
    with (
        torch.no_grad(),
        evaluating(model),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
    ):
        outputs = flatten_tensors(forward_fn(model, batch))
    if not outputs:
        raise ValueError(
            f'{type(model).__name__}: the forward function returned no tensor to compare'
        )
    return outputs


def output_errors(before: list[Tensor], after: list[Tensor]) -> tuple[float, float]:
    """The largest error over all output tensors, absolute and relative.

    Returns:
        max |after - before| and max (|after - before| / max |before| of the tensor); both
        inf where the number of tensors or a shape differs or a value is not finite.
    """
    if [x.shape for x in before] != [y.shape for y in after]:
        return float('inf'), float('inf')
    worst = [0.0, 0.0]
    for x, y in zip(before, after):
        if not x.numel():
            continue
        if not x.is_floating_point():  # labels, masks
            x, y = x.double(), y.double()
        error = (y - x).abs().max()
        scale = x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        for i, value in enumerate((float(error), float(error / scale))):
            worst[i] = max(worst[i], value if value == value else float('inf'))
    return worst[0], worst[1]
