"""Asymmetric noise: only live channels move (DemP section 3.2)."""

import torch
from torch import Tensor


def live_channel_mask(grad: Tensor) -> Tensor:
    """Channels whose weights receive any loss gradient, shape (C,), bool.

    A channel that a ReLU holds at zero on the whole batch has an exactly zero
    gradient. ``grad``: shape (C, ...), channel first; NaN and inf count as live.
    """
    if grad.dim() > 1:  # the maximum is five times faster than ne(0).any() on a CPU
        grad = grad.flatten(1).abs().amax(dim=1)
    return grad.ne(0)


def add_gaussian_noise_(
    weight: Tensor, *, std: float, live_mask: Tensor | None, generator: torch.Generator
) -> None:
    """w_c += xi_c, xi ~ N(0, std^2), for the channels c in ``live_mask``.

    The noise is drawn for all channels, so that what a channel gets does not
    depend on which others are alive.

    Args:
        weight: shape (C, ...), changed in place.
        std: sigma >= 0, not scaled by the learning rate.
        live_mask: shape (C,), bool, or None for every channel.
        generator: on the device of ``weight``.
    """
    noise = torch.empty_like(weight).normal_(0, std, generator=generator)
    if live_mask is not None:
        noise.mul_(live_mask.view(-1, *[1] * (weight.dim() - 1)))
    weight.add_(noise)
