"""Which single weights are kept: against loops, and counts that are exact."""

import math

import pytest
import torch

from mmpsbn.functional.sparse_weights import (
    count_kept,
    densities,
    drop_share,
    gradual_share,
    mask_state_,
    replace_weights,
    select_by_score,
    select_largest,
    select_random,
)

SHAPES = [(64, 64, 3, 3), (128, 64, 3, 3), (512, 512, 3, 3), (10, 512)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('sparsity', [0.3, 0.8, 0.98])
@pytest.mark.parametrize('distribution', ['uniform', 'erk'])
def test_densities_keep_as_many_weights_as_asked_for(sparsity, distribution):
    kept = densities(SHAPES, sparsity=sparsity, distribution=distribution)
    sizes = [math.prod(shape) for shape in SHAPES]
    total = sum(share * size for share, size in zip(kept, sizes))
    assert total == pytest.approx((1 - sparsity) * sum(sizes))
    assert all(0 < share <= 1 for share in kept)


def test_erk_is_proportional_to_sum_over_product_below_1():
    kept = densities(SHAPES, sparsity=0.8, distribution='erk')
    raw = [sum(shape) / math.prod(shape) for shape in SHAPES]
    assert kept[3] == 1.0 and kept[0] / raw[0] > 1 / raw[3]  # else it would keep more than all
    assert kept[1] / kept[2] == pytest.approx(raw[1] / raw[2])


def test_the_course_of_sparsity_and_of_what_is_replaced():
    assert [gradual_share(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.875, 1.0]
    shares = [drop_share(p, peak=0.3) for p in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.3, 0.15, 0.0])
    assert [count_kept(10, d) for d in (0.001, 0.26, 1.0)] == [1, 3, 10]


def test_ties_keep_the_lower_index():
    mask = select_largest(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), 3)
    assert mask.tolist() == [[True, True], [True, False]]


def test_random_places_come_from_the_generator_and_each_is_as_likely():
    masks = [
        select_random((4, 5), 8, torch.Generator().manual_seed(seed))
        for seed in (0, 0, *range(600))
    ]
    assert torch.equal(masks[0], masks[1]) and all(mask.sum() == 8 for mask in masks)
    share = torch.stack(masks[2:]).double().mean(0)
    assert (share - 0.4).abs().max() < 4 * (0.24 / 600) ** 0.5


@pytest.mark.parametrize('method', ['magnitude', 'saliency'])
def test_the_largest_scores_stay_and_what_is_masked_does_not_come_back(method):
    weight, gradient = drawn(6, 5), drawn(6, 5, seed=1)
    mask = drawn(6, 5, seed=2) > -0.5
    weight[~mask] = 9.0
    kept = select_by_score(method, mask, weight, gradient, 7)
    places = [(i, j) for i in range(6) for j in range(5) if mask[i, j]]

    def score(place):
        return abs(weight[place] * (gradient[place] if method == 'saliency' else 1))

    best = sorted(places, key=score)[-7:]
    assert sorted(map(list, best)) == kept.nonzero().tolist()


def test_set_drops_small_weights_and_grows_at_random():
    weight, mask = drawn(6, 5), drawn(6, 5, seed=2) > 0
    grown = torch.zeros(6, 5)
    kept = select_largest(weight.abs().masked_fill(~mask, -1.0), int(mask.sum()) - 4)
    for seed in range(400):
        new = replace_weights(
            'set', mask, weight, torch.zeros(6, 5), 4, torch.Generator().manual_seed(seed)
        )
        assert new.sum() == mask.sum() and (new | ~kept).all()
        grown += new & ~kept
    share = 4 / int((~kept).sum())
    deviation = (share * (1 - share) / 400) ** 0.5
    assert (grown[~kept] / 400 - share).abs().max() < 4 * deviation


def test_an_optimizer_forgets_masked_weights_alone():
    masked = torch.tensor([False, True])
    state = dict(step=torch.tensor(3.0), exp_avg=torch.ones(2), other=1)
    mask_state_(state, masked)
    assert state['exp_avg'].tolist() == [1, 0] and state['step'] == 3
