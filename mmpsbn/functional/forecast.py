"""When a filter that dies counts as collapsed: by weight decay alone, before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .scalar_decay import decay_curve


@dataclass(frozen=True)
class CollapseForecast:
    """The gamma of a filter that is dead from the first step on.

    Attributes:
        num_steps: optimizer steps of the run.
        gamma: |gamma| at the start, >= threshold.
        threshold: below which a filter counts as collapsed.
        log_decay: log(gamma / |gamma at the end|); S of :func:`sgd_log_decay` for SGD, inf
            where nothing is left, negative where the decay is so strong that it diverges.
        steps_to_collapse: steps after which |gamma| < threshold and stays so to the end of
            the run; None if it does not come to that, and then the threshold sees no filter
            that dies in the run.
    """

    num_steps: int
    gamma: float
    threshold: float
    log_decay: float
    steps_to_collapse: int | None


def sgd_log_decay(lrs: Sequence[float], *, weight_decay: float, momentum: float) -> float:
    """S = sum of eta * lambda / (1 - m) over the steps: a dead gamma shrinks by exp(-S).

    Under SGD with L2, for eta * lambda << (1 - m)^2. From 0.3 to 1e-3 takes S = 5.7
    (design section 3).

    Args:
        lrs: eta of each step.
        weight_decay: lambda >= 0.
        momentum: m in [0, 1).
    """
    return math.fsum(lrs) * weight_decay / (1 - momentum)


def forecast_collapse(
    rule: str,
    *,
    gamma: float,
    threshold: float,
    lrs: Sequence[float],
    weight_decay: float,
    decoupled: bool,
    settings: Mapping,
) -> CollapseForecast:
    """Follow the gamma of a filter that dies now through a run.

    The optimizer starts from a fresh state: what Adam and its kin remember of the
    filter's former gradients slows the decay for about 1 / (1 - beta2) steps more.

    Args:
        gamma: |gamma| now, >= threshold > 0.
        lrs: learning rate of each step of the run.
        rule, weight_decay, decoupled, settings: as in :func:`.scalar_decay.decay_curve`.

    Raises:
        ValueError: gamma is below the threshold.
        ZeroDivisionError: eps = 0 in an adaptive optimizer whose gradient runs out.
    """
    if not gamma >= threshold > 0:
        raise ValueError(f'gamma must be >= threshold > 0, got {gamma} and {threshold}')
    curve = decay_curve(
        rule,
        start=gamma,
        lrs=lrs,
        weight_decay=weight_decay,
        decoupled=decoupled,
        settings=settings,
        gradients=None,
    )
    # adaptive optimizers may swing around 0: the last time above the threshold counts
    last_above = max(step for step, weight in enumerate(curve) if not abs(weight) < threshold)
    end = abs(curve[-1])
    return CollapseForecast(
        num_steps=len(lrs),
        gamma=gamma,
        threshold=threshold,
        log_decay=math.log(gamma) - math.log(end) if end else math.inf,
        steps_to_collapse=last_above + 1 if last_above < len(lrs) else None,
    )
