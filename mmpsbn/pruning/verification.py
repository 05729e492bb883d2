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


def _flatten(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in _flatten(item)]
    return []


def probe_outputs(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> list[Tensor]:
    """The output tensors of one forward pass in eval mode, full float32 precision."""
    # TF32 kernels round to 10 bits, and another width picks another kernel
    with (
        torch.no_grad(),
        evaluating(model),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
    ):
        outputs = _flatten(forward_fn(model, batch))
    if not outputs:
        raise ValueError(
            f'{type(model).__name__}: the forward function returned no tensor to compare'
        )
    return outputs


def relative_error(before: list[Tensor], after: list[Tensor]) -> float:
    """max |after - before| / max |before| over all output tensors; inf where their
    number or a shape differs or a value is not finite."""
    if len(before) != len(after):
        return float('inf')
    worst = 0.0
    for x, y in zip(before, after):
        if x.shape != y.shape:
            return float('inf')
        if not x.numel():
            continue
        if not x.is_floating_point():  # labels, masks
            x, y = x.double(), y.double()
        scale = x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        error = float((y - x).abs().max() / scale)
        worst = max(worst, error if error == error else float('inf'))
    return worst
