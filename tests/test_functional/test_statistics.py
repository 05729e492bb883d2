"""Statistics of channels."""

import math

import pytest
import torch
from draws import generator

from mmpsbn.functional.statistics import (
    activation_probability,
    channel_range,
    collapsed_mask,
    dead_overlap,
    filter_l1_norms,
)

NAN, INF = math.nan, math.inf


# ---------------------------------------------------------------- scales and weights
def test_collapsed_is_strictly_below_the_threshold_and_never_nan():
    gamma = torch.tensor([0.0, -5e-4, 1e-3, -2e-3, NAN, INF, -INF], dtype=torch.float64)
    assert collapsed_mask(gamma, threshold=1e-3).tolist() == [True] * 2 + [False] * 5


def test_the_probability_of_an_activation_by_hand():
    cases = [  # gamma, b, Phi(b / |gamma|)
        (1, 0, 0.5),
        (2, 2, 0.8413447460685429),
        (-2, 2, 0.8413447460685429),
        (0.5, -1, 0.022750131948179195),
        (-0.0, 0.1, 1),  # gamma = 0: the channel is b
        (0.0, -0.1, 0),
        (0.0, 0.0, 0),
        (-0.0, -0.0, 0),
        (0, NAN, NAN),
        (NAN, 0, NAN),
        (INF, 3, 0.5),
    ]
    gamma, bias, probability = torch.tensor(cases, dtype=torch.float64).unbind(1)
    found = activation_probability(gamma, bias)
    torch.testing.assert_close(found, probability, rtol=0, atol=1e-15, equal_nan=True)


def test_l1_norms_against_a_loop():
    for shape, dim in (((5, 3, 2, 2), 0), ((3, 5, 2, 2), 1), ((5, 3), 0)):
        weight = torch.randn(shape, generator=generator(), dtype=torch.float64)
        norms = filter_l1_norms(weight.requires_grad_(), channel_dim=dim)
        loop = [
            sum(abs(float(w)) for w in weight.detach().select(dim, c).flatten()) for c in range(5)
        ]
        assert norms.tolist() == pytest.approx(loop, rel=1e-12) and not norms.requires_grad


@pytest.mark.parametrize(
    'before, now, overlap',
    [
        ('1100', '1110', 1),
        ('1110', '0111', 2 / 3),
        ('1000', '0100', 0),
        ('0100', '0000', NAN),
        ('', '', NAN),
    ],
)
def test_overlap_by_hand(before, now, overlap):
    before, now = (torch.tensor([c == '1' for c in m], dtype=torch.bool) for m in (before, now))
    assert dead_overlap(before, now) == pytest.approx(overlap, nan_ok=True)


# ---------------------------------------------------------------- ranges
@pytest.mark.parametrize(
    'shape, dim',
    [((2, 3, 4, 5), 1), ((2, 3, 4, 5), -3), ((2, 4, 3), -1), ((3, 4, 5), 0), ((3,), -1)],
)
def test_channel_range_is_min_and_max_over_all_other_dimensions(shape, dim):
    x = torch.randn(shape, generator=generator()).requires_grad_()
    by_channel = x.detach().movedim(dim, 0).reshape(3, -1)
    low, high = channel_range(x, channel_dim=dim)
    assert torch.equal(low, by_channel.min(dim=1).values) and not low.requires_grad
    assert torch.equal(high, by_channel.max(dim=1).values) and not high.requires_grad


def test_channel_range_shows_nan_and_inf_and_says_nothing_of_an_empty_batch():
    x = torch.zeros(2, 4, 2, 2)
    x[1, 0, 0, 1], x[0, 1, 1, 1], x[0, 2, 0, 0] = NAN, -INF, -3.0
    low, high = channel_range(x, channel_dim=1)
    assert low[0].isnan() and low[1:].tolist() == [-INF, -3, 0]
    assert high[0].isnan() and high[1:].tolist() == [0, 0, 0]
    for empty, dim in ((torch.zeros(0, 3, 7, 7), 1), (torch.zeros(0, 3), -1)):
        low, high = channel_range(empty, channel_dim=dim)
        assert low.tolist() == [INF] * 3 and high.tolist() == [-INF] * 3
