"""Channel statistics: what is collapsed, how strongly a channel speaks."""

import torch
from torch import Tensor

# |gamma| below it is collapsed, in all of the papers.
COLLAPSED_GAMMA = 1e-3


def collapsed_mask(gamma: Tensor, *, threshold: float) -> Tensor:
    """|gamma| < threshold, shape (C,), bool (psBN paper section 3.1).

    NaN is not collapsed: an unknown scale is never counted as a small one.
    """
    return gamma.abs() < threshold


def activation_probability(gamma: Tensor, bias: Tensor) -> Tensor:
    """P(gamma xhat + b > 0) = Phi(b / |gamma|) for xhat ~ N(0, 1), shape (C,), in [0, 1].

    The psBN paper's equation 2, which writes it for gamma > 0. Where gamma = 0 the channel is b
    whatever comes in: 1 for b > 0, else 0, for it never fires. NaN propagates.

    Args:
        gamma: scales, shape (C,); any shapes that broadcast.
        bias: effective biases b, shape (C,): beta, or beta + alpha of a psBN.
    """
    ratio = (bias / gamma.abs()).masked_fill((gamma == 0) & (bias == 0), -torch.inf)
    return torch.special.ndtr(ratio)


def filter_l1_norms(weight: Tensor, *, channel_dim: int) -> Tensor:
    """sum |w| of each filter, shape (C,) (psBN paper figure 1a).

    Args:
        weight: of a convolution or a linear layer.
        channel_dim: the dimension of the output channels: 0, or 1 of a transposed convolution.
    """
    return weight.detach().movedim(channel_dim, 0).flatten(1).abs().sum(1)


def dead_overlap(before: Tensor, now: Tensor) -> float:
    """|X and Y| / min(|X|, |Y|) of two sets of dead channels, in [0, 1].

    1 where none of the dead revived (or where all that are dead were so before); NaN where a
    set is empty. The overlap coefficient of DemP appendix C, after Sokar et al. 2023.

    Args:
        before, now: True = dead, shape (C,), bool; in the paper all that were ever dead, and
            the dead of today.
    """
    smaller = min(int(before.sum()), int(now.sum()))
    return int((before & now).sum()) / smaller if smaller else float('nan')


def channel_range(x: Tensor, *, channel_dim: int) -> tuple[Tensor, Tensor]:
    """min and max of x over everything but the channels, shapes (C,); NaN propagates, and
    of nothing (an empty batch) they are inf and -inf."""
    x = x.detach()
    dims = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    if not dims:  # amin([]) would reduce over all dimensions
        return x, x
    if not x.numel():
        low = x.new_full((x.size(channel_dim),), torch.inf)
        return low, -low
    return x.amin(dims), x.amax(dims)
