"""Which channels go, so that widths come out as asked for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpsbn.pruning.graph import ChannelGroup, Member
from mmpsbn.pruning.lossless import keep_mask_of

NAN, INF = math.nan, math.inf


def select(scores, threshold, min_channels, round_to):
    """Of one layer, whose channels up to a threshold may go."""
    every = tuple(range(len(scores)))
    writer = Member('w', every, every, (('weight', 0),), len(scores))
    group = ChannelGroup('w', len(scores), (writer,), (), ())
    rounding = dict(min_channels=min_channels, round_to=round_to)
    return keep_mask_of(group, scores, scores <= threshold, **rounding)


@pytest.mark.parametrize(
    'scores, threshold, min_channels, round_to, keep',
    [
        ([1, 0, 2, 0], 0, 1, 1, '1010'),  # what speaks stays, the rest goes
        ([0, 0, 0], 0, 1, 1, '100'),  # all dead: min_channels, ties keep the lower index
        ([0, 0, 0], 0, 9, 1, '111'),  # min_channels beyond C
        ([0, 5, 0, 0, 7], 0, 1, 4, '11101'),  # raised to a multiple; ties keep the lower index
        ([0, 5, 0, 0, 7], 0, 3, 2, '11101'),  # min_channels first, then the multiple
        ([1, 1, 1, 1, 1, 0], 0, 1, 4, '111111'),  # the multiple exceeds C: all stay
        ([0.1, 0.3, 0.2, 9], 0.5, 2, 1, '0101'),  # silent ones return by score
        ([0.3, 0.1, 0.3, 0.3], 0.5, 2, 1, '1010'),  # ... then by index
        ([0.5, 0.6], 0.5, 1, 1, '01'),  # at the threshold is silent
        ([NAN, 0, NAN, 0], 0, 1, 1, '1010'),  # unknown is never silent
        ([1e-40, 0], 0, 1, 1, '10'),  # a denormal speaks
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
