"""Which channels stay. Keep masks are bool, shape (C,), True = keep."""

from collections.abc import Sequence

import torch
from torch import Tensor


def select_keep_mask(
    scores: Tensor,
    *,
    threshold: float,
    min_channels: int,
    round_to: int,
    widths: Sequence[tuple[Tensor, int]] | None = None,
) -> Tensor:
    """Keep every channel that speaks, and a few silent ones where asked for.

    A channel is silent if its score is <= ``threshold``; NaN is never silent. Each layer
    that makes the channels keeps its speaking ones and as many silent ones as it takes to
    reach ``min_channels`` and then the next multiple of ``round_to``, at most its width.
    The silent channels kept for that are the ones with the highest score; ties keep the
    lower index. A speaking channel is never removed.

    Args:
        scores: shape (C,), e.g. max |activation| of each channel.
        threshold: on the scores.
        min_channels, round_to: >= 1.
        widths: for each layer the channel at each of its positions, shape (P,), int64, and
            its width >= P. By default one layer with the C channels.

    Returns:
        Keep mask, shape (C,), bool, on the device of ``scores``.
    """
    keep_mask = ~(scores <= threshold)
    if widths is None:
        widths = [(torch.arange(scores.numel()), scores.numel())]
    widths = [(channels.to(scores.device), size) for channels, size in widths]
    by_score = torch.sort(scores, descending=True, stable=True).indices
    kept_before = -1
    while int(keep_mask.sum()) > kept_before:  # what one layer keeps may unround another
        kept_before = int(keep_mask.sum())
        for channels, size in widths:
            kept = size - int((~keep_mask[channels]).sum())
            wanted = max(kept, min_channels)
            missing = min(-(-wanted // round_to) * round_to, size) - kept
            positions = torch.bincount(channels, minlength=scores.numel())
            candidates = by_score[(~keep_mask & (positions > 0))[by_score]]
            taken = positions[candidates].cumsum(0) - positions[candidates]
            keep_mask[candidates[taken < missing]] = True
    return keep_mask
