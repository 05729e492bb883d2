"""Channel statistics: what is collapsed, how strongly a channel speaks."""

from collections.abc import Iterable

from torch import Tensor


def collapsed_mask(gamma: Tensor, *, threshold: float) -> Tensor:
    """|gamma| < threshold, shape (C,), bool (psBN paper section 3.1).

    NaN is not collapsed: an unknown scale is never counted as a small one.
    """
    return gamma.abs() < threshold


def channel_range(x: Tensor, *, channel_dim: int) -> tuple[Tensor, Tensor]:
    """min and max of x over everything but the channels, shapes (C,); NaN propagates, and
    of nothing (an empty batch) both are 0."""
    x = x.detach()
    dims = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    if not dims:  # amin([]) would reduce over all dimensions
        return x, x
    if not x.numel():
        nothing = x.new_zeros(x.size(channel_dim))
        return nothing, nothing
    return x.amin(dims), x.amax(dims)


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
