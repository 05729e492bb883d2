"""Activation statistics of channels, streamed, against their definitions."""

import functools
import math

import pytest
import torch
from draws import generator
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpsbn.functional.activations import ActivationStatistics, activation_statistics

NAN, INF = math.nan, math.inf


def same(x, y):
    return all(torch.equal(vars(x)[field], vars(y)[field]) for field in vars(x))


def by_definition(x):
    """x: (samples, channels, positions). Each measure with its own loop over everything."""
    peaks = [[max(abs(float(a)) for a in channel) for channel in sample] for sample in x]
    for c in range(x.size(1)):
        zeros = sum(float(a) == 0 for a in x[:, c].flatten())
        peak = max(sample[c] for sample in peaks)
        share = sum(sample[c] > 1e-3 * peak for sample in peaks) / len(peaks)
        yield peak, zeros / x[:, c].numel(), share


def activations(seed, shape=(9, 7, 5), dtype=torch.float64):
    """ReLU outputs with silent samples, silent channels, and maxima over 12 octaves."""
    size = torch.rand(shape[:2], generator=generator(seed)).mul(-12).exp2()[..., None]
    x = torch.randn(shape, generator=generator(seed + 1)).relu() * size
    x[torch.rand(shape[:2], generator=generator(seed + 2)) < 0.3] = 0
    x[:, seed % shape[1]] = 0
    return x.to(dtype)


def test_by_hand():
    x = torch.tensor(  # (samples, channels, positions)
        [
            [[0, 4.0], [0, 0], [0, 1e-5], [-2, 0], [1, 1]],
            [[0, 3e-3], [0, 0], [0, 1e-5], [0, 1], [1, 1]],
            [[0, 5e-3], [0, 0], [0, 1e-5], [0, 0], [1, 1]],
            [[0, 0], [0, 0], [0, 0], [0, 0], [1, 1]],
        ]
    )
    statistics = activation_statistics(x, channel_dim=1)
    assert statistics.peak.tolist() == pytest.approx([4, 0, 1e-5, 2, 1])
    assert statistics.samples.tolist() == [4] * 5 and statistics.values.tolist() == [8] * 5
    assert statistics.zero_share().tolist() == [5 / 8, 1, 5 / 8, 6 / 8, 0]
    assert statistics.inactive_mask(eps=1e-12).tolist() == [False, True, False, False, False]
    assert statistics.inactive_mask(eps=1e-4).tolist() == [False, True, True, False, False]
    # above 4e-3, 1e-8, 2e-3 and 1e-3
    for bound in statistics.universality():
        assert bound.tolist() == [2 / 4, 0, 3 / 4, 2 / 4, 1]


@pytest.mark.parametrize('seed', range(5))
def test_every_measure_is_what_its_definition_says(seed):
    x = activations(seed)
    statistics = activation_statistics(x, channel_dim=1)
    low, high = statistics.universality()
    for c, (peak, zero_share, universality) in enumerate(by_definition(x)):
        assert float(statistics.peak[c]) == peak
        assert float(statistics.zero_share()[c]) == zero_share
        assert low[c] <= universality <= high[c]
        for eps in (0, 1e-12, 1e-4, 0.1):
            assert bool(statistics.inactive_mask(eps=eps)[c]) == (peak <= eps)


def test_the_bounds_of_universality_are_tight_but_for_what_is_near_the_threshold():
    near = torch.linspace(0.9, 1.1, 401, dtype=torch.float64) * 1e-3
    for scale in (1.0, 1.04, 3.7e-5, 2.0**90, 2.0**-90):
        # one largest sample, far ones, one near the threshold
        for ratio in near:
            x = torch.tensor([[1], [0.5], [1e-4], [ratio]], dtype=torch.float64) * scale
            low, high = activation_statistics(x, channel_dim=1).universality()
            share = 3 / 4 if ratio > 1e-3 else 2 / 4
            if abs(ratio - 1e-3) > 1e-15:
                assert low <= share <= high
            if abs(ratio / 1e-3 - 1) > 0.0906:  # 2 ** (1 / 8) - 1
                assert low == high == share


@given(st.integers(0, 10**6), st.lists(st.integers(0, 9), max_size=4), st.randoms())
@settings(max_examples=50, deadline=None)
def test_how_the_data_is_cut_and_in_which_order_it_comes_makes_no_difference(seed, cuts, random):
    x = activations(seed)
    x[0, 3] = INF
    x = x[torch.randperm(9, generator=generator(seed))]
    edges = [0, *sorted(cuts), 9]
    parts = [activation_statistics(x[a:b], channel_dim=1) for a, b in zip(edges, edges[1:])]
    random.shuffle(parts)
    merged = functools.reduce(ActivationStatistics.merged, parts, ActivationStatistics.empty(7))
    assert same(merged, activation_statistics(x, channel_dim=1))


@pytest.mark.parametrize('value', [NAN, INF, -INF])
@pytest.mark.parametrize('late', [False, True])
def test_nan_and_infinity_are_never_inactive_and_leave_the_others_alone(value, late):
    x = activations(0)
    spoilt = x.clone()
    spoilt[8 if late else 0, 3, 2] = value
    clean, seen = (
        activation_statistics(batch[:4], channel_dim=1).merged(
            activation_statistics(batch[4:], channel_dim=1)
        )
        for batch in (x, spoilt)
    )
    assert float(seen.peak[3]) == INF and not seen.inactive_mask(eps=1e9)[3]
    for before, after in zip(clean.universality(), seen.universality()):
        assert after[3].isnan()
        others = torch.arange(7) != 3
        assert torch.equal(after[others], before[others])
    assert (seen.zero_share() <= clean.zero_share()).all()


@pytest.mark.parametrize('shape, dim', [((0, 3), 1), ((0, 3, 4, 4), 1), ((2, 3, 0, 4), -3)])
def test_an_empty_batch_says_nothing(shape, dim):
    nothing = activation_statistics(torch.zeros(shape), channel_dim=dim)
    assert same(nothing, ActivationStatistics.empty(3))
    assert not nothing.inactive_mask(eps=1.0).any() and nothing.zero_share().isnan().all()
    assert all(bound.isnan().all() for bound in nothing.universality())
    some = activation_statistics(torch.ones(2, 3), channel_dim=1)
    assert same(some.merged(nothing), some) and same(nothing.merged(some), some)


@pytest.mark.parametrize(
    'shape, dim, samples',
    [((4, 3), -1, 4), ((3,), -1, 1), ((4, 3, 2), 1, 4), ((3, 5, 6), -3, 1), ((4, 6, 3), -1, 4)],
)
def test_samples_channels_and_positions_are_told_apart(shape, dim, samples):
    x = torch.randn(shape, generator=generator()).relu()
    statistics = activation_statistics(x, channel_dim=dim)
    rows = (x if samples == 4 else x[None]).movedim(dim if samples == 4 else 1, 1)
    reference = activation_statistics(rows.reshape(samples, 3, -1), channel_dim=1)
    assert same(statistics, reference)
    assert statistics.samples.tolist() == [samples] * 3
    assert statistics.values.tolist() == [x.numel() // 3] * 3


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_counted_as_it_is_and_nothing_holds_the_graph(dtype):
    x = activations(1, dtype=dtype).requires_grad_()
    statistics = activation_statistics(x, channel_dim=1)
    assert same(statistics, activation_statistics(x.float(), channel_dim=1))
    assert statistics.peak.dtype == torch.float32 and not statistics.peak.requires_grad


def test_positions_of_a_flattened_channel_count_as_samples_of_it():
    x = activations(2, shape=(6, 4, 3))
    flat = activation_statistics(x.permute(1, 0, 2).reshape(4, -1).T, channel_dim=1)
    apart = activation_statistics(x.flatten(1), channel_dim=1)  # (samples, channels * positions)
    index = torch.arange(12)
    joined = apart.onto(index, index // 3, 4)
    assert same(joined, flat)
    some = apart.onto(torch.tensor([11, 0, 10]), torch.tensor([1, 0, 1]), 3)
    pair = activation_statistics(torch.cat([x[:, 3, 2], x[:, 3, 1]])[:, None], channel_dim=1)
    alone = activation_statistics(x[:, 0, :1], channel_dim=1)
    for c, reference in enumerate((alone, pair, ActivationStatistics.empty(1))):
        one = ActivationStatistics(*(field[c : c + 1] for field in vars(some).values()))
        assert [f.tolist() for f in vars(one).values()] == [
            f.tolist() for f in vars(reference).values()
        ]
