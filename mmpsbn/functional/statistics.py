"""Channel statistics: what is collapsed, how strongly a channel speaks."""

from collections.abc import Iterable

import torch
from torch import Tensor


def collapsed_mask(gamma: Tensor, *, threshold: float) -> Tensor:
    """|gamma| < threshold, shape (C,), bool (psBN paper section 3.1).

    NaN is not collapsed: an unknown scale is never counted as a small one.
    """
    return gamma.abs() < threshold


def channel_max_abs(x: Tensor, *, channel_dim: int) -> Tensor:
    """max |x| over everything but the channels, shape (C,); NaN propagates, and of
    nothing (an empty batch) the maximum is 0."""
    x = x.detach()
    dims = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    if not dims:  # amin([]) would reduce over all dimensions
        return x.abs()
    if not x.numel():
        return x.new_zeros(x.size(channel_dim))
    # max(|min|, |max|) reads x once and allocates nothing of its size
    low, high = x.amin(dims), x.amax(dims)
    return torch.maximum(low.abs(), high.abs())


def flops_sparsity(layers: Iterable[tuple[int, float, float]]) -> float:
    """1 - MACs left / MACs, in [0, 1] ("sparsity" in the psBN paper).

    Args:
        layers: for each conv or linear layer its MACs, the fraction of input
            channels left and the fraction of output channels left.
    """
    total = left = 0.0
    for macs, in_left, out_left in layers:
        total += macs
        left += macs * in_left * out_left
    return 1 - left / total if total else 0.0
