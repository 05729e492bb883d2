"""Monte-Carlo counterparts of :mod:`.theory`: the processes themselves, one draw at a time."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .statistics import activation_probability


class Estimate(NamedTuple):
    """Sample mean and its standard error."""

    mean: Tensor
    standard_error: Tensor


def estimate(samples: Tensor) -> Estimate:
    """Mean over the last dimension, of N > 1 independent samples."""
    return Estimate(samples.mean(-1), samples.std(-1) / math.sqrt(samples.size(-1)))


def simulate_activation_change(
    gamma: Tensor,
    beta: Tensor,
    *,
    lr: float,
    grad_std: float,
    num_samples: int,
    generator: torch.Generator,
) -> Estimate:
    """Change of the activation probability by one SGD step of pure noise (psBN paper
    equation 1), with g ~ N(0, grad_std^2).

    Each draw is the mean over g and -g, which takes the large first-order term away and
    leaves the expectation as it is.

    Args:
        gamma, beta: shape (C,), gamma != 0.
        num_samples: draws for each channel, > 1.

    Returns:
        Shapes (C,).
    """
    gamma, beta = gamma.double().unsqueeze(-1), beta.double().unsqueeze(-1)
    shape = (gamma.size(0), num_samples)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    step = lr * grad_std * torch.randn(shape, dtype=torch.float64, generator=generator)
    step *= gamma * x + beta > 0
    before = activation_probability(gamma, beta)
    up, down = (activation_probability(gamma + s * x, beta + s) for s in (step, -step))
    return estimate((up + down) / 2 - before)


def simulate_absorbing_walk(
    start: float,
    *,
    diffusion: float,
    times: list[float],
    num_walks: int,
    generator: torch.Generator,
    seen_between_steps: bool,
) -> Estimate:
    """Share of walks dw = sqrt(diffusion) dB from ``start`` > 0 that have not met 0.

    Args:
        times: ascending, > 0, one step of the walk each.
        seen_between_steps: whether a walk also dies between two steps above 0, at w and
            w', with the probability exp(-2 w w' / (diffusion dt)) of a Brownian bridge:
            then it is Brownian motion, exactly. Otherwise it is a walk of SGD's kind.

    Returns:
        Shapes (len(times),).
    """
    position = torch.full((num_walks,), start, dtype=torch.float64)
    alive = torch.ones(num_walks, dtype=torch.bool)
    record, now = [], 0.0
    for time in times:
        variance = diffusion * (time - now)
        noise = torch.randn(num_walks, dtype=torch.float64, generator=generator)
        moved = position + math.sqrt(variance) * noise
        alive &= moved > 0
        if seen_between_steps:
            crossed = torch.exp(-2 * position * moved / variance)
            chance = torch.rand(num_walks, dtype=torch.float64, generator=generator)
            alive &= chance >= crossed
        record.append(alive.double())
        position, now = moved, time
    return estimate(torch.stack(record))


def simulate_geometric_rate(
    curvature: float,
    noise: Tensor,
    *,
    lr: float,
    num_steps: int,
    num_walks: int,
    generator: torch.Generator,
) -> Estimate:
    """Growth of log |w| per step of the walks w -= lr (curvature + zeta) w, zeta drawn from
    ``noise``."""
    picks = torch.randint(noise.numel(), (num_steps, num_walks), generator=generator)
    factors = 1 - lr * (curvature + noise.double()[picks])
    return estimate(factors.abs().log().mean(0))
