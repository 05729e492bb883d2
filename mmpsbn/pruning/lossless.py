"""Which channels of a group may go without a loss.

A criterion says which may (:func:`removable_without_loss`), :func:`keep_mask_of` which of these
do go, so that widths come out as asked for. Hook, API and tools all decide here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..functional.statistics import collapsed_mask
from .folding import takes_constants
from .graph import ChannelGroup
from .sparsity import scale_layers

LOSSLESS_CRITERIA = ('dead', 'collapsed')
# Not without a loss: what only comes from the negative side of a leaky activation (DemP F.7).
NEVER_POSITIVE = 'never_positive'


def removable_without_loss(
    models: Sequence[nn.Module],
    group: ChannelGroup,
    norm_of: Mapping[str, tuple[str, ...]],
    *,
    score: Tensor,
    criterion: str,
    eps: float,
    gamma_threshold: float,
    fold_padding: bool,
) -> Tensor:
    """The channels of a group that may go, by a criterion; shape (channels,), bool.

    ``'dead'``: max |a| <= ``eps`` wherever they are read. ``'collapsed'``: these, and those with
    |gamma| < ``gamma_threshold`` in every norm of every model, which emit next to a constant, where
    all readers can take it into a bias. :data:`NEVER_POSITIVE`: max a <= ``eps``. What is unknown
    (NaN or infinite) stays.

    Args:
        models: the one that was watched, and its averages, which lose the same channels.
        norm_of: of the graph.
        score: of :class:`ActivationWindow`, the largest over all models, shape (channels,), on
            the CPU; a ``positive`` one for NEVER_POSITIVE.
        fold_padding: accept zero padding in the readers, see :func:`takes_constants`.
    """
    removable = score <= eps
    if criterion == 'collapsed':
        # An average (EMA) has gammas of its own: what has collapsed in the model may live there.
        collapsed = torch.ones_like(removable)
        for model in models:
            collapsed &= collapsed_channels(model, group, threshold=gamma_threshold)
            collapsed &= foldable_channels(model, group, norm_of, fold_padding=fold_padding)
        removable |= collapsed
    return removable & score.isfinite()


def collapsed_channels(model: nn.Module, group: ChannelGroup, *, threshold: float) -> Tensor:
    """Channels whose scales are all below the threshold, |gamma| < threshold in every norm of
    the group; shape (channels,), bool. A channel without a norm is not collapsed."""
    scales = scale_layers(model)
    # A channel of a residual stream has a gamma in every layer that writes it: one that is not
    # small keeps it, whatever the others are.
    small = torch.ones(group.channels, dtype=torch.bool)
    scaled = torch.zeros(group.channels, dtype=torch.bool)
    for member in group.channelwise:
        if member.layer in scales:
            channel = torch.tensor(member.channel)
            gamma = scales[member.layer].weight.detach().cpu()[torch.tensor(member.index)]
            scaled[channel] = True
            small[channel[~collapsed_mask(gamma, threshold=threshold)]] = False
    return small & scaled


def foldable_channels(
    model: nn.Module,
    group: ChannelGroup,
    norm_of: Mapping[str, tuple[str, ...]],
    *,
    fold_padding: bool,
) -> Tensor:
    """Channels whose constant every reader can take into a bias; shape (channels,), bool."""
    foldable = torch.ones(group.channels, dtype=torch.bool)
    for reader in group.readers:
        if not takes_constants(model, reader.layer, norm_of, padded=fold_padding):
            foldable[torch.tensor(reader.channel)] = False
    return foldable


def keep_mask_of(
    group: ChannelGroup,
    scores: Tensor,
    removable: Tensor,
    *,
    min_channels: int,
    round_to: int,
) -> Tensor:
    """The keep mask that removes what is removable, shape (channels,), bool.

    Each layer that writes the group keeps as many removable channels as it takes to reach
    ``min_channels`` and then the next multiple of ``round_to``, at most its width: those with the
    highest score; ties keep the lower index.

    Args:
        scores: shape (channels,), on the CPU, e.g. max |activation|; of what is not removable
            any value.
        removable: shape (channels,), bool; what is not is never removed.
        min_channels, round_to: >= 1.
    """
    keep_mask = ~removable
    by_score = torch.sort(scores, descending=True, stable=True).indices  # stable: ties by index
    layers = [(torch.tensor(member.channel), member.size) for member in group.writers]
    kept_before = -1
    while int(keep_mask.sum()) > kept_before:  # what one layer keeps may unround another
        kept_before = int(keep_mask.sum())
        for channels, size in layers:
            kept = size - int((~keep_mask[channels]).sum())
            wanted = max(kept, min_channels)
            missing = min(-(-wanted // round_to) * round_to, size) - kept
            # a channel may fill several positions of a layer (a group of a grouped convolution),
            # so positions are counted; the last one may overshoot, for channels are not split
            positions = torch.bincount(channels, minlength=group.channels)
            candidates = by_score[(~keep_mask & (positions > 0))[by_score]]
            taken = positions[candidates].cumsum(0) - positions[candidates]
            keep_mask[candidates[taken < missing]] = True
    return keep_mask


def also_live(
    group: ChannelGroup,
    removable: Tensor,
    importance: Tensor,
    *,
    min_channels: int,
    round_to: int,
) -> Tensor:
    """What is removable, and the least important live channels where the nearest multiple of
    ``round_to`` is below the width that would be left; shape (channels,), bool.

    Args:
        importance: shape (channels,), e.g. |gamma|; the lowest go first, infinite ones never.
    """
    removable = removable.clone()
    # Rounding up alone would let a width that is one above a multiple keep round_to - 1 dead ones.
    for member in group.writers:
        channels = torch.tensor(member.channel)
        kept = member.size - int(removable[channels].sum())
        over = kept % round_to
        if 2 * over < round_to and kept - over >= max(min_channels, round_to):
            live = channels[~removable[channels] & importance[channels].isfinite()].unique()
            # stable: of equal ones the lower index goes, the same on every rank
            lowest = live[importance[live].sort(stable=True).indices[:over]]
            removable[lowest] = True
    return removable
