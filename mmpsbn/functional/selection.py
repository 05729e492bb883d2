"""Which channels stay. Keep masks are bool, shape (C,), True = keep."""

from collections.abc import Sequence

import torch
from torch import Tensor


def select_keep_mask(
    scores: Tensor,
    removable: Tensor,
    *,
    min_channels: int,
    round_to: int,
    widths: Sequence[tuple[Tensor, int]],
) -> Tensor:
    """Keep what is not removable, and of the rest as much as widths ask for.

    Each layer that makes the channels keeps as many removable ones as it takes to reach
    ``min_channels`` and then the next multiple of ``round_to``, at most its width: those with
    the highest score; ties keep the lower index.

    Args:
        scores: shape (C,), e.g. max |activation| of each channel; of the others any value.
        removable: shape (C,), bool; what is not is never removed.
        min_channels, round_to: >= 1.
        widths: for each layer the channel at each of its positions, shape (P,), int64, and
            its width >= P.

    Returns:
        Keep mask, shape (C,), bool, on the device of ``scores``.
    """
    keep_mask = ~removable
    widths = [(channels.to(scores.device), size) for channels, size in widths]
    by_score = torch.sort(scores, descending=True, stable=True).indices  # stable: ties by index
    kept_before = -1
    while int(keep_mask.sum()) > kept_before:  # what one layer keeps may unround another
        kept_before = int(keep_mask.sum())
        for channels, size in widths:
            kept = size - int((~keep_mask[channels]).sum())
            wanted = max(kept, min_channels)
            missing = min(-(-wanted // round_to) * round_to, size) - kept
            # a channel may fill several positions of a layer (a group of a grouped convolution),
            # so positions are counted; the last one may overshoot, for channels are not split
            positions = torch.bincount(channels, minlength=scores.numel())
            candidates = by_score[(~keep_mask & (positions > 0))[by_score]]
            taken = positions[candidates].cumsum(0) - positions[candidates]
            keep_mask[candidates[taken < missing]] = True
    return keep_mask
