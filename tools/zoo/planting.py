"""Kill channels at random, and know for which of them it is certain that no reader sees them."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from .census import Census


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
    ReLU is seen; a channel without a norm through its weight and bias. GroupNorm loses
    whole groups, as its channels share their statistics.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(share: float, number: int) -> list[int]:
        """Indices drawn with a probability; at least one, and never all."""
        chance = torch.rand(number, generator=generator)
        limit = max(share, float(chance.min()))
        return torch.nonzero(chance <= limit).flatten().tolist()[: max(1, number - 1)]

    def draw_channels(width: int, per_group: int) -> set[int]:
        groups = draw(1 / 4, width // per_group)
        return {g * per_group + k for g in groups for k in range(per_group)}

    def group_size(name: str) -> int:
        layer = model.get_submodule(name)
        return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1

    dead: dict[str, set[int]] = defaultdict(set)
    certain: dict[str, set[int]] = defaultdict(set)
    names = sorted(name for name, width in census.widths.items() if width > 1)
    for i in draw(1 / 3, len(names)):
        channels = draw_channels(census.widths[names[i]], group_size(names[i]))
        dead[names[i]] |= channels
        if names[i] in census.inner:
            certain[names[i]] |= channels
    for i in draw(1 / 3, len(census.streams)) if census.streams else ():
        per_group = max(map(group_size, census.streams[i]))
        channels = draw_channels(census.widths[census.streams[i][0]], per_group)
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
