"""Kill channels at random, and know for which of them it is certain that no reader sees them."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from census import Census
from torch import nn


@dataclass(frozen=True)
class Planted:
    """Dead channels.

    Attributes:
        channels: layer -> its dead channels.
        certain: layer -> those that for certain no reader sees.
    """

    channels: dict[str, list[int]]
    certain: dict[str, list[int]]


@torch.no_grad()
def plant_dead_channels_(model: nn.Module, census: Census, seed: int) -> Planted:
    """Kill about a quarter of the channels of a third of the layers, and of a third of the
    streams (at least one of each).

    A normalised channel dies through a scale of 0 and a bias of 0, or below 0 where only its
    ReLU is seen; a channel without a norm through its weight and bias. What can only go
    together dies together: the channels of a group of GroupNorm or of a grouped convolution.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(share: float, number: int) -> list[int]:
        """Indices drawn with a probability; at least one, and never all."""
        if number == 0:
            return []
        chance = torch.rand(number, generator=generator)
        limit = max(share, float(chance.min()))
        return torch.nonzero(chance <= limit).flatten().tolist()[: max(1, number - 1)]

    def draw_channels(*layers: str) -> set[int]:
        """Of the units of channels that layers of one width have, a quarter."""
        size = max(census.unit_sizes[name] for name in layers)
        units = census.widths[layers[0]] // size
        chosen = draw(1 / 4, units) if units > 1 else []
        return {unit * size + k for unit in chosen for k in range(size)}

    dead: dict[str, set[int]] = defaultdict(set)
    certain: dict[str, set[int]] = defaultdict(set)
    names = sorted(census.widths)
    for i in draw(1 / 3, len(names)):
        channels = draw_channels(names[i])
        dead[names[i]] |= channels
        if names[i] in census.inner:
            certain[names[i]] |= channels
    for i in draw(1 / 3, len(census.streams)):
        channels = draw_channels(*census.streams[i])
        for name in census.streams[i]:
            dead[name] |= channels
            certain[name] |= channels
    for name, channels in dead.items():
        below_zero = name in census.rectified
        _kill_(model.get_submodule(name), sorted(channels), below_zero, generator)
    return Planted(*({n: sorted(c) for n, c in which.items()} for which in (dead, certain)))


def _kill_(layer: nn.Module, channels: list[int], below_zero: bool, generator) -> None:
    if layer.weight is not None:
        layer.weight[channels] = 0
    if layer.bias is not None:
        bias = torch.rand(len(channels), generator=generator, dtype=layer.bias.dtype)
        layer.bias[channels] = -(bias - 0.5).clamp_min(0) if below_zero else 0.0
