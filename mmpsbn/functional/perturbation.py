"""What DemP adds to gradients and weights: penalties (section 3.1) and asymmetric noise (3.2)."""

import torch
from torch import Tensor

PENALTY_KINDS = ('lasso', 'l2')


def add_penalty_gradient_(grad: Tensor, weight: Tensor, *, kind: str, strength: float) -> None:
    """Add the gradient of a penalty R(w) to ``grad`` in place.

    * ``lasso``: R(w) = strength * sum |w|, gradient strength * sign(w)
      (0 at w = 0);
    * ``l2``: R(w) = strength / 2 * sum w^2, gradient strength * w.

    The penalty is part of the loss and not decoupled, so an adaptive optimizer
    scales it like any other gradient (DemP appendix F.5).

    Args:
        grad, weight: same shape, any.
        kind: one of :data:`PENALTY_KINDS`.
        strength: >= 0, per optimizer step.
    """
    direction = torch.sign(weight) if kind == 'lasso' else weight
    grad.add_(direction.to(grad.dtype), alpha=strength)


def live_channel_mask(grad: Tensor, *, channel_dim: int) -> Tensor:
    """Channels whose weights receive any loss gradient, shape (C,), bool.

    A channel that a ReLU holds at zero on the whole batch has an exactly zero
    gradient. NaN and inf count as live.

    Args:
        channel_dim: the dimension of ``grad`` that has the C output channels: 0, or 1 of a
            transposed convolution.
    """
    others = [dim for dim in range(grad.dim()) if dim != channel_dim]
    if others:  # the maximum is five times faster than ne(0).any() on a CPU
        grad = grad.abs().amax(dim=others)
    return grad.ne(0)


def add_gaussian_noise_(
    weight: Tensor,
    *,
    std: float,
    live_mask: Tensor | None,
    channel_dim: int,
    generator: torch.Generator,
) -> None:
    """w_c += xi_c, xi ~ N(0, std^2), for the channels c in ``live_mask``.

    The noise is drawn for all channels, so that what a channel gets does not
    depend on which others are alive.

    Args:
        weight: changed in place.
        std: sigma >= 0, not scaled by the learning rate.
        live_mask: shape (C,), bool, or None for every channel.
        channel_dim: the dimension of ``weight`` that has the C channels.
        generator: on the device of ``weight``.
    """
    noise = torch.empty_like(weight).normal_(0, std, generator=generator)
    if live_mask is not None:
        noise.mul_(live_mask.view(-1, *[1] * (weight.dim() - channel_dim - 1)))
    weight.add_(noise)
