"""Nothing is believed: outputs before and after surgery are compared."""

from typing import Any

import torch
from torch import Tensor, nn

from .forward import ForwardFn, observing, tensors_in


class VerificationError(RuntimeError):
    """Surgery changed what the model computes, and was undone.

    Attributes:
        groups: names of the channel groups at fault; empty if only their sum is too large.
    """

    def __init__(self, message: str, groups: list[str]):
        super().__init__(message)
        self.groups = groups


def probe_outputs(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> list[Tensor]:
    """The output tensors of one forward pass in eval mode, in full float32 precision and from
    one seed."""
    # TF32 kernels round to 10 bits, and another width picks another kernel
    with (
        observing(model),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
    ):
        outputs = list(tensors_in(forward_fn(model, batch)))
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
        if x.is_complex() and y.is_complex():
            x, y = torch.view_as_real(x), torch.view_as_real(y)
        if not x.is_floating_point():  # labels, masks
            x, y = x.double(), y.double()
        error = (y - x).abs().max()
        scale = x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        for i, value in enumerate((float(error), float(error / scale))):
            worst[i] = max(worst[i], value if value == value else float('inf'))
    return worst[0], worst[1]
