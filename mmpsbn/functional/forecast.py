"""How far weight decay alone shrinks a weight that gets no gradient, known before training."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch.optim import Optimizer

from .decoupled_decay import DECOUPLED_OPTIMIZERS, is_decoupled


def decay_settings(optimizer: Optimizer, group: Mapping) -> tuple[float, float] | None:
    """lambda and m of :func:`log_decay` for a param group of SGD with L2, of AdamW and the like,
    and of this package's decoupled optimizers, whose lambda is that of a step at the first
    learning rate; None for any other optimizer, whose steps depend on past gradients too.
    """
    decay = float(group['weight_decay'])
    if is_decoupled(optimizer, group):
        own = type(optimizer) in DECOUPLED_OPTIMIZERS
        return decay / group.get('initial_lr', group['lr']) if own else decay, 0.0
    if type(optimizer) is not torch.optim.SGD:
        return None
    momentum = group['momentum']
    return decay * (1 - group['dampening'] if momentum else 1), momentum


def log_decay(lrs: Sequence[float], *, weight_decay: float, momentum: float) -> float:
    """S = sum of eta * lambda / (1 - m) over the steps: a dead gamma shrinks by exp(-S).

    For eta * lambda << (1 - m)^2; above (1 - sqrt(m))^2 gamma swings around 0. From 0.3 to 1e-3
    takes S = 5.7.

    Args:
        lrs: eta of each step.
        weight_decay: lambda >= 0.
        momentum: m in [0, 1); 0 where the decay is decoupled.
    """
    return math.fsum(lrs) * weight_decay / (1 - momentum)


def steps_to_decay(
    needed: float, lrs: Sequence[float], *, weight_decay: float, momentum: float
) -> int | None:
    """The first step after which S of :func:`log_decay` is ``needed`` > 0; None if the run is over
    before that."""
    lr_sum = needed * (1 - momentum) / weight_decay if weight_decay else math.inf
    return next((step for step, total in enumerate(accumulate(lrs), 1) if total >= lr_sum), None)
