"""The channels of a snapshot in one table, for pictures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .numbers import collapsed_masks
from .snapshot import Settings, Snapshot


@dataclass(frozen=True)
class Channels:
    """All channels of a model, arrays of one length; NaN where a number does not apply.

    Attributes:
        layers: names, in the model's order.
        depth: index into ``layers``.
        gamma: |gamma|.
        bias: effective bias b.
        l1: L1 norm of the filter, of the median of its layer.
        zero_share: Pr[a = 0].
        universality: the middle of its bounds.
        collapsed, dead: bool.
    """

    layers: list[str]
    depth: np.ndarray
    gamma: np.ndarray
    bias: np.ndarray
    l1: np.ndarray
    zero_share: np.ndarray
    universality: np.ndarray
    collapsed: np.ndarray
    dead: np.ndarray

    def select(self, mask: np.ndarray) -> 'Channels':
        columns = {k: v[mask] for k, v in vars(self).items() if k != 'layers'}
        return Channels(self.layers, **columns)


def channels_of(snapshot: Snapshot, settings: Settings) -> Channels:
    columns: dict[str, list[Tensor]] = {}
    collapsed = collapsed_masks(snapshot, settings.thresholds[0])
    for depth, (name, channels) in enumerate(snapshot.layers.items()):
        size = len(channels.bias)
        nothing = torch.full((size,), torch.nan)
        seen, gamma, l1 = channels.activations, channels.gamma, channels.l1_norms
        row = dict(
            depth=torch.full((size,), depth),
            gamma=nothing if gamma is None else gamma.abs(),
            bias=channels.bias,
            # a layer whose median filter is 0 has no scale to compare with
            l1=nothing if l1 is None or not l1.median() > 0 else l1 / l1.median(),
            zero_share=nothing if seen is None else seen.zero_share(),
            universality=nothing if seen is None else torch.stack(seen.universality()).mean(0),
            collapsed=collapsed.get(name, torch.zeros(size, dtype=torch.bool)),
            dead=torch.zeros(size, dtype=torch.bool)
            if seen is None
            else seen.inactive_mask(eps=settings.eps),
        )
        for key, column in row.items():
            columns.setdefault(key, []).append(column)
    if not columns:
        raise ValueError('no layer has channels to look at')
    joined = {key: torch.cat(parts).numpy() for key, parts in columns.items()}
    return Channels(list(snapshot.layers), **joined)
