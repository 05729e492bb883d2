"""What the papers count of the channels of a census."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..functional.statistics import activation_probability, collapsed_mask
from .census import LayerChannels

# Frankle et al. section 5: a ReLU is disabled that is off on more than 99 % of its inputs
_MOSTLY = 0.99


@dataclass(frozen=True)
class Limits:
    """What counts as small.

    Attributes:
        gamma: |gamma| below it is collapsed, > 0.
        eps: max |a| up to it is dead, >= 0; the papers use 1e-12.
    """

    gamma: float
    eps: float


@dataclass(frozen=True)
class Measure:
    """A property that a channel has or has not.

    Attributes:
        meaning: in words, of the channels that have it.
        needs_data: whether it takes activations; else it takes scales.
        has: which channels of a layer that has these, shape (C,), bool.
    """

    meaning: str
    needs_data: bool
    has: Callable[[LayerChannels, Limits], Tensor]

    def mask(self, channels: LayerChannels, limits: Limits) -> Tensor | None:
        """Which channels of a layer have it, shape (C,), bool; None where the layer cannot tell."""
        known = channels.activations if self.needs_data else channels.gamma
        return None if known is None else self.has(channels, limits)


MEASURES: dict[str, Measure] = {
    'collapsed': Measure(
        'have a scale of nearly 0',
        False,
        lambda channels, limits: collapsed_mask(channels.gamma, threshold=limits.gamma),
    ),
    'hardly_active': Measure(
        'would pass a ReLU right behind on less than 1 % of normally distributed inputs',
        False,
        lambda channels, _: activation_probability(channels.gamma, channels.bias) < 1 - _MOSTLY,
    ),
    'dead': Measure(
        'were 0 on all that was looked at',
        True,
        lambda channels, limits: channels.activations.inactive_mask(eps=limits.eps),
    ),
    'mostly_zero': Measure(
        'were 0 on more than 99 % of what was looked at',
        True,
        lambda channels, _: channels.activations.zero_share() > _MOSTLY,
    ),
}


@dataclass(frozen=True)
class ChannelCounts:
    """How many channels of each layer a measure finds.

    Attributes:
        masks: layer that can tell -> True where found, shape (C,), bool.
    """

    masks: dict[str, Tensor]

    @cached_property
    def by_layer(self) -> dict[str, tuple[int, int]]:
        """Layer -> (channels found, channels)."""
        return {name: (int(mask.sum()), mask.numel()) for name, mask in self.masks.items()}

    @property
    def total(self) -> tuple[int, int]:
        """(channels found, channels) over all layers."""
        counts = self.by_layer.values()
        return sum(found for found, _ in counts), sum(size for _, size in counts)

    @property
    def share(self) -> float:
        """The share of channels found, in [0, 1]; 0 of none."""
        found, size = self.total
        return found / size if size else 0.0

    def without(self, left_out: Mapping[str, Tensor]) -> 'ChannelCounts':
        """The same without the channels of some layers that are True in ``left_out``, which still
        count among the channels there are."""
        masks = {n: m & ~left_out[n] if n in left_out else m for n, m in self.masks.items()}
        return ChannelCounts(masks)


def count_channels(
    census: Mapping[str, LayerChannels], measure: str, limits: Limits
) -> ChannelCounts:
    """Count what one of :data:`MEASURES` finds in the layers of a census."""
    masks = {name: MEASURES[measure].mask(channels, limits) for name, channels in census.items()}
    return ChannelCounts({name: mask for name, mask in masks.items() if mask is not None})


def mean_universality(census: Mapping[str, LayerChannels]) -> float:
    """Mean universality over the channels whose activations were finite, in [0, 1]; the middle of
    its bounds. A channel that is always 0 counts, as 0 (Mehta et al. section 3: "inactivated (0%
    universality)"). NaN of none."""
    bounds = [
        torch.stack(channels.activations.universality()).mean(0)
        for channels in census.values()
        if channels.activations is not None
    ]
    return float(torch.cat(bounds).nanmean()) if bounds else float('nan')


def counts_table(counts: Mapping[str, ChannelCounts], *, only_found: bool = False) -> str:
    """One line a layer: channels, and what each measure found of them.

    Args:
        counts: measure -> what it found.
        only_found: leave out the layers in which none found any.
    """
    layers = list(dict.fromkeys(name for found in counts.values() for name in found.by_layer))
    rows = []
    for name in layers:
        cells = [found.by_layer.get(name) for found in counts.values()]  # None: it cannot tell
        if only_found and not any(cell and cell[0] for cell in cells):
            continue
        channels = next(cell[1] for cell in cells if cell)
        texts = [f'{c[0]} ({c[0] / max(c[1], 1):.1%})' if c else '' for c in cells]
        rows.append((name, str(channels), *texts))
    rows.insert(0, ('layer', 'channels', *(measure.replace('_', ' ') for measure in counts)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        f'{row[0]:<{widths[0]}}  '
        + '  '.join(f'{cell:>{width}}' for cell, width in zip(row[1:], widths[1:]))
        for row in rows
    )
