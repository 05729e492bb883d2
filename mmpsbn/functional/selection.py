"""Which channels stay. Keep masks are bool, shape (C,), True = keep."""

import torch
from torch import Tensor


def select_keep_mask(
    scores: Tensor, *, threshold: float, min_channels: int, round_to: int
) -> Tensor:
    """Keep every channel that speaks, and a few silent ones where asked for.

    A channel is silent if its score is <= ``threshold``; NaN is never silent.
    The number kept is the number of speaking channels, raised to
    ``min_channels`` and then to the next multiple of ``round_to``, at most C.
    The silent channels kept for that are the ones with the highest score; ties
    keep the lower index. A speaking channel is never removed.

    Args:
        scores: shape (C,), >= 0, e.g. max |activation| of each channel.
        threshold: >= 0.
        min_channels, round_to: >= 1.

    Returns:
        Keep mask, shape (C,), bool, on the device of ``scores``.
    """
    keep_mask = ~(scores <= threshold)
    speaking = int(keep_mask.sum())
    wanted = max(speaking, min_channels)
    wanted = min(-(-wanted // round_to) * round_to, scores.numel())
    if wanted > speaking:
        silent = scores.masked_fill(keep_mask, float('-inf'))
        best = torch.sort(silent, descending=True, stable=True).indices
        keep_mask[best[: wanted - speaking]] = True
    return keep_mask
