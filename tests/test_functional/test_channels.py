"""Channel statistics and the selection of what stays."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpsbn.functional.selection import select_keep_mask
from mmpsbn.functional.statistics import channel_range, collapsed_mask

NAN, INF = math.nan, math.inf


# ---------------------------------------------------------------- statistics
def test_collapsed_is_strictly_below_the_threshold_and_never_nan():
    gamma = torch.tensor([0.0, -5e-4, 1e-3, -2e-3, NAN, INF, -INF], dtype=torch.float64)
    assert collapsed_mask(gamma, threshold=1e-3).tolist() == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    'shape, dim',
    [
        ((2, 3, 4, 5), 1),
        ((2, 3, 4, 5), -3),
        ((7, 3), -1),
        ((2, 4, 3), -1),
        ((3, 4, 5), 0),
        ((3,), -1),
    ],
)
@pytest.mark.parametrize('sign', [1, -1])
def test_channel_range_is_min_and_max_over_all_other_dimensions(shape, dim, sign):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs() * sign
    x.requires_grad_()
    by_channel = x.detach().movedim(dim, 0).reshape(3, -1)
    low, high = channel_range(x, channel_dim=dim)
    assert torch.equal(low, by_channel.min(dim=1).values) and not low.requires_grad
    assert torch.equal(high, by_channel.max(dim=1).values) and not high.requires_grad


def test_channel_range_shows_nan_and_inf():
    x = torch.zeros(2, 4, 2, 2)
    x[1, 0, 0, 1], x[0, 1, 1, 1], x[0, 2, 0, 0] = NAN, -INF, -3.0
    low, high = channel_range(x, channel_dim=1)
    assert low[0].isnan() and low[1:].tolist() == [-INF, -3, 0]
    assert high[0].isnan() and high[1:].tolist() == [0, 0, 0]


def test_an_empty_batch_says_nothing():  # a RoI head without proposals
    for empty, dim in ((torch.zeros(0, 3, 7, 7), 1), (torch.zeros(0, 3), -1)):
        low, high = channel_range(empty, channel_dim=dim)
        assert low.tolist() == [INF] * 3 and high.tolist() == [-INF] * 3


# ---------------------------------------------------------------- selection
def select(scores, threshold, min_channels, round_to):
    """Of one layer, whose channels up to a threshold may go."""
    layer = torch.arange(len(scores)), len(scores)
    how = dict(min_channels=min_channels, round_to=round_to, widths=[layer])
    return select_keep_mask(scores, scores <= threshold, **how)


@pytest.mark.parametrize(
    'scores, threshold, min_channels, round_to, keep',
    [
        ([1, 0, 2, 0], 0, 1, 1, '1010'),  # what speaks stays, the rest goes
        ([1, 2, 3, 4], 0, 1, 1, '1111'),  # nothing to remove
        ([0, 0, 0], 0, 1, 1, '100'),  # all dead: min_channels, ties keep the lower index
        ([0, 0, 0], 0, 2, 1, '110'),
        ([0, 0, 0], 0, 9, 1, '111'),  # min_channels beyond C
        ([0, 5, 0, 0, 7], 0, 1, 4, '11101'),  # raised to a multiple; ties keep the lower index
        ([0, 5, 0, 0, 7], 0, 3, 2, '11101'),  # min_channels first, then the multiple
        ([1, 1, 1, 0, 0], 0, 1, 4, '11110'),
        ([1, 1, 1, 1, 1, 0], 0, 1, 4, '111111'),  # the multiple exceeds C: all stay
        ([0, 3, 0], 0, 1, 8, '111'),
        ([0.1, 0.3, 0.2, 9], 0.5, 2, 1, '0101'),  # silent ones return by score
        ([0.3, 0.1, 0.3, 0.3], 0.5, 2, 1, '1010'),  # ... then by index
        ([0.5, 0.6], 0.5, 1, 1, '01'),  # at the threshold is silent
        ([NAN, 0, NAN, 0], 0, 1, 1, '1010'),  # unknown is never silent
        ([NAN, 0, 0], 0, 2, 1, '110'),
        ([INF, 0], 0, 1, 1, '10'),
        ([1e-40, 0], 0, 1, 1, '10'),  # a denormal speaks
        ([0], 0, 1, 1, '1'),
    ],
)
def test_scores_to_masks_by_hand(scores, threshold, min_channels, round_to, keep):
    mask = select(torch.tensor(scores, dtype=torch.float32), threshold, min_channels, round_to)
    assert mask.dtype == torch.bool
    assert ''.join(str(int(k)) for k in mask) == keep


values = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.2, 0.2, 0.5, 1.0, 3.0, NAN, INF])


@given(
    st.lists(values, min_size=1, max_size=40),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.integers(1, 50),
    st.integers(1, 16),
)
def test_count_follows_the_formula_and_nothing_that_speaks_goes(
    scores, threshold, min_channels, round_to
):
    scores = torch.tensor(scores)
    before = scores.clone()
    mask = select(scores, threshold, min_channels, round_to)
    assert torch.equal(scores.nan_to_num(-1), before.nan_to_num(-1))
    speaks = ~(scores <= threshold)
    wanted = max(int(speaks.sum()), min_channels)
    assert int(mask.sum()) == min(math.ceil(wanted / round_to) * round_to, len(scores))
    assert mask[speaks].all()
    kept, gone = scores[mask & ~speaks], scores[~mask]
    if len(kept) and len(gone):
        assert kept.min() >= gone.max()


def test_a_large_tie_keeps_the_lowest_indices():  # an unstable sort shows only beyond 16 values
    mask = select(torch.zeros(1000), 0.0, min_channels=300, round_to=1)
    assert mask[:300].all() and not mask[300:].any()
