"""Theory against simulation: Theorem 1 and DemP's two walks."""

import math

import pytest
import torch
from draws import generator

from mmpsbn.functional.simulation import (
    simulate_absorbing_walk,
    simulate_activation_change,
    simulate_geometric_rate,
)
from mmpsbn.functional.statistics import activation_probability
from mmpsbn.functional.theory import (
    absorbing_survival,
    geometric_rate,
    geometric_rate_bound,
    theorem_one_k,
)

FLOAT = dict(dtype=torch.float64)
U = torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0], **FLOAT)


def within_three_standard_errors(estimated, predicted):
    return bool(((estimated.mean - predicted).abs() <= 3 * estimated.standard_error).all())


# ---------------------------------------------------------------- Theorem 1
def test_k_by_hand():
    # K(0) = -2 phi(0)^2; K(1) = -phi(1)^2, as 1 - 1^3 = 0; K(-1) is the same
    expected = torch.tensor([-1 / math.pi, *[-math.exp(-1) / (2 * math.pi)] * 2], **FLOAT)
    torch.testing.assert_close(theorem_one_k(torch.tensor([0.0, 1.0, -1.0], **FLOAT)), expected)


def exact_change(u, step):
    """E[Phi(b'/g')] - Phi(b/g) at gamma = 1, beta = u, g = -1 or 1, by quadrature over the
    xhat > -u that a step is made for."""
    x = torch.linspace(-u, 10.0, 200_001, **FLOAT)
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    before = activation_probability(torch.ones(1, **FLOAT), torch.full((1,), u, **FLOAT))
    after = [activation_probability(1 + s * x, u + s) for s in (step, -step)]
    return float(torch.trapezoid((sum(after) / 2 - before) * density, x))


@pytest.mark.parametrize('u', U.tolist())
def test_the_printed_formula_is_the_second_order_of_the_exact_expectation(u):
    step = 1e-3
    exact = exact_change(u, step) * 2 / step**2
    assert exact == pytest.approx(float(theorem_one_k(torch.tensor(u, **FLOAT))), abs=1e-5)


@pytest.mark.parametrize('gamma', [0.2, -1.5])
def test_theorem_one_against_monte_carlo(gamma):
    gammas = torch.full_like(U, gamma)
    settings = dict(lr=0.1, grad_std=0.2 * abs(gamma))  # steps of 2 % of gamma
    simulated = simulate_activation_change(
        gammas, U * abs(gamma), **settings, num_samples=100_000, generator=generator()
    )
    predicted = (0.1 * settings['grad_std']) ** 2 / 2 * theorem_one_k(U) / gamma**2
    assert within_three_standard_errors(simulated, predicted)
    # the intervals are narrow enough to tell K from half of it
    assert bool((simulated.standard_error < 0.2 * predicted.abs()).all())


def test_the_theorem_breaks_down_where_the_step_is_as_large_as_gamma():
    at_zero = -1 / math.pi
    assert exact_change(0.0, 0.1) * 2 / 0.1**2 == pytest.approx(at_zero, rel=0.02)
    assert abs(exact_change(0.0, 1.0) * 2) < 0.7 * abs(at_zero)


# ---------------------------------------------------------------- absorbing walk
def test_survival_by_hand():
    # w0 one standard deviation of the free walk: P(|z| < 1)
    survival = absorbing_survival(
        torch.tensor(0.3, **FLOAT), diffusion=0.01, time=torch.tensor(9.0)
    )
    assert float(survival) == pytest.approx(0.682689, abs=1e-6)


def test_survival_against_monte_carlo():
    times = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    simulated = simulate_absorbing_walk(
        0.3,
        diffusion=0.02,
        times=times,
        num_walks=100_000,
        generator=generator(),
        seen_between_steps=True,
    )
    predicted = absorbing_survival(
        torch.tensor(0.3, **FLOAT), diffusion=0.02, time=torch.tensor(times, **FLOAT)
    )
    assert within_three_standard_errors(simulated, predicted)


def test_a_walk_seen_at_its_steps_survives_as_if_it_had_started_higher():
    steps, start, diffusion = 400, 0.3, 1e-3
    simulated = simulate_absorbing_walk(
        start,
        diffusion=diffusion,
        times=[float(step) for step in range(1, steps + 1)],
        num_walks=40_000,
        generator=generator(),
        seen_between_steps=False,
    )
    time = torch.arange(1, steps + 1, **FLOAT)
    shifted = torch.tensor(start + 0.5826 * diffusion**0.5, **FLOAT)
    corrected = absorbing_survival(shifted, diffusion=diffusion, time=time)
    printed = absorbing_survival(torch.tensor(start, **FLOAT), diffusion=diffusion, time=time)
    gap = ((simulated.mean - corrected) / simulated.standard_error)[99::100]
    assert float(gap.abs().max()) < 3
    assert float(((simulated.mean - printed) / simulated.standard_error)[99::100].min()) > 5


# ---------------------------------------------------------------- geometric walk
def test_rate_by_hand():
    # factors 1 - 0.5 (-0.1 -+ 1) = 1.55 and 0.55: mu = log(0.8525) / 2, it dies
    rate = geometric_rate(-0.1, torch.tensor([-1.0, 1.0]), lr=0.5)
    assert rate == pytest.approx(math.log(1.55 * 0.55) / 2)
    # without the noise it grows
    assert geometric_rate(-0.1, torch.zeros(1), lr=0.5) == pytest.approx(math.log(1.05))


def test_rate_against_monte_carlo():
    noise = torch.tensor([-1.2, -0.4, 0.4, 1.2])
    rates = simulate_geometric_rate(
        -0.1, noise, lr=0.5, num_steps=200, num_walks=5000, generator=generator()
    )
    assert within_three_standard_errors(rates, geometric_rate(-0.1, noise, lr=0.5))
    assert float(rates.standard_error) < 0.001


def test_bound_by_hand_and_above_the_rate():
    # h = -0.1, sigma = 1, eta = 0.5: 0.05 - 0.125 * 1.01 + (0.125 / 3) * 0.301
    bound = geometric_rate_bound(-0.1, 1.0, lr=0.5)
    assert bound == pytest.approx(0.05 - 0.12625 + 0.125 / 3 * 0.301)
    for lr in (0.01, 0.1, 0.3, 0.6, 0.8):
        rate = geometric_rate(-0.1, torch.tensor([-1.0, 1.0]), lr=lr)
        assert rate < geometric_rate_bound(-0.1, 1.0, lr=lr) + 1e-12


def test_a_step_across_zero_is_refused():
    with pytest.raises(ValueError, match=r'lr \* \(curvature \+ noise\) must be < 1, got 2'):
        geometric_rate(0.0, torch.tensor([-2.0, 2.0]), lr=1.0)
