"""Sparsity penalties, as the gradient they add to the loss gradient."""

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
