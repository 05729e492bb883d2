"""What the papers count of the channels of a census."""

from collections.abc import Callable
from dataclasses import dataclass

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
        needs_data: whether it takes activations.
        mask: of the channels of a layer, shape (C,), bool; None where that layer cannot tell.
    """

    meaning: str
    needs_data: bool
    mask: Callable[[LayerChannels, Limits], Tensor | None]


def _collapsed(channels: LayerChannels, limits: Limits) -> Tensor | None:
    if channels.gamma is None:
        return None
    return collapsed_mask(channels.gamma, threshold=limits.gamma)


def _hardly_active(channels: LayerChannels, limits: Limits) -> Tensor | None:
    if channels.gamma is None:
        return None
    return activation_probability(channels.gamma, channels.bias) < 1 - _MOSTLY


def _dead(channels: LayerChannels, limits: Limits) -> Tensor | None:
    if channels.activations is None:
        return None
    return channels.activations.inactive_mask(eps=limits.eps)


def _mostly_zero(channels: LayerChannels, limits: Limits) -> Tensor | None:
    if channels.activations is None:
        return None
    return channels.activations.zero_share() > _MOSTLY


MEASURES: dict[str, Measure] = {
    'collapsed': Measure('have a scale of nearly 0', False, _collapsed),
    'hardly_active': Measure(
        'would pass a ReLU right behind on less than 1 % of normally distributed inputs',
        False,
        _hardly_active,
    ),
    'dead': Measure('were 0 on all that was looked at', True, _dead),
    'mostly_zero': Measure('were 0 on more than 99 % of what was looked at', True, _mostly_zero),
}
