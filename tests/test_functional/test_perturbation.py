"""Penalty gradients and asymmetric noise."""

import pytest
import torch
from draws import generator
from hypothesis import given
from hypothesis import strategies as st

from mmpsbn.functional.perturbation import (
    PENALTY_KINDS,
    add_gaussian_noise_,
    add_penalty_gradient_,
    live_channel_mask,
)

PENALTIES = {
    'lasso': lambda w, strength: strength * w.abs().sum(),
    'l2': lambda w, strength: strength / 2 * w.square().sum(),
}


@pytest.mark.parametrize('kind', PENALTY_KINDS)
@given(seed=st.integers(0, 10**6), strength=st.floats(0, 10), zeros=st.booleans())
def test_penalty_adds_the_gradient_of_r(kind, seed, strength, zeros):
    weight = torch.randn(4, 3, 2, generator=generator(seed), dtype=torch.float64)
    if zeros:
        weight[1] = 0
    loss_grad = torch.randn(4, 3, 2, generator=generator(seed + 1), dtype=torch.float64)
    leaf = weight.clone().requires_grad_()
    PENALTIES[kind](leaf, strength).backward()
    grad, before = loss_grad.clone(), weight.clone()
    add_penalty_gradient_(grad, weight, kind=kind, strength=strength)
    torch.testing.assert_close(grad, loss_grad + leaf.grad, rtol=1e-12, atol=1e-12)
    assert torch.equal(weight, before)


@pytest.mark.parametrize('kind', PENALTY_KINDS)
def test_penalty_keeps_a_half_precision_gradient(kind):
    grad = torch.zeros(2, dtype=torch.float16)
    add_penalty_gradient_(grad, torch.tensor([-1.0, 1.0]), kind=kind, strength=0.25)
    assert grad.dtype == torch.float16 and grad.tolist() == [-0.25, 0.25]


@pytest.mark.parametrize('value', [1e-38, -1e-30, float('nan'), float('inf')])
@pytest.mark.parametrize('shape', [(3, 2, 2, 2), (3, 5), (3,)])
def test_live_are_the_channels_with_any_gradient_or_an_unknown_one(shape, value):
    grad = torch.zeros(shape)
    grad.flatten()[-1] = value
    assert live_channel_mask(grad, channel_dim=0).tolist() == [False, False, True]


@given(
    mask=st.lists(st.booleans(), min_size=5, max_size=5),
    shape_dim=st.sampled_from(
        [((5,), 0), ((5, 3), 0), ((5, 3, 2, 2), 0), ((3, 5, 2, 2), 1), ((1, 5, 1), 1)]
    ),
    seed=st.integers(0, 1000),
)
def test_dead_channels_stay_bit_equal_and_noise_ignores_who_else_is_alive(mask, shape_dim, seed):
    shape, dim = shape_dim
    weight = torch.randn(shape, generator=generator(seed))
    everyone, some = weight.clone(), weight.clone()
    live = torch.tensor(mask)
    add_gaussian_noise_(everyone, std=1.0, live_mask=None, channel_dim=dim, generator=generator(7))
    drawn = generator(7)
    add_gaussian_noise_(some, std=1.0, live_mask=live, channel_dim=dim, generator=drawn)
    some_of, all_of, before_of = (x.movedim(dim, 0) for x in (some, everyone, weight))
    assert torch.equal(some_of[~live], before_of[~live])
    assert torch.equal(some_of[live], all_of[live])
    assert (everyone != weight).flatten().any()
    # the generator has moved on by the same amount, so ranks stay in step
    reference = generator(7)
    torch.empty(shape).normal_(generator=reference)
    assert torch.equal(drawn.get_state(), reference.get_state())


def test_dead_channels_keep_even_nan_and_inf():
    weight, live = (
        torch.tensor([float('nan'), float('inf'), 1.0]),
        torch.tensor([False, False, True]),
    )
    add_gaussian_noise_(weight, std=1.0, live_mask=live, channel_dim=0, generator=generator())
    assert weight[0].isnan() and weight[1] == float('inf') and weight[2] != 1
