"""The channels of snapshots as arrays, for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .numbers import collapsed_masks
from .snapshot import Snapshot


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
        threshold: on |gamma|, of ``collapsed``.
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
    threshold: float

    def where_finite(self, *names: str) -> 'Channels | None':
        """Those of which some columns are finite; None of none."""
        mask = np.isfinite([getattr(self, name) for name in names]).all(0)
        columns = {k: v[mask] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **columns) if mask.any() else None


def channels_of(snapshot: Snapshot) -> Channels:
    columns: dict[str, list[Tensor]] = {}
    collapsed = collapsed_masks(snapshot, snapshot.threshold)
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
            else seen.inactive_mask(eps=snapshot.settings.eps),
        )
        for key, column in row.items():
            columns.setdefault(key, []).append(column)
    joined = {key: torch.cat(parts).numpy() for key, parts in columns.items()}
    return Channels(list(snapshot.layers), **joined, threshold=snapshot.threshold)


@dataclass(frozen=True)
class Paths:
    """The ways of K channels in the (|gamma|, b) plane.

    Attributes:
        points: |gamma| and b at each checkpoint, shape (K, checkpoints, 2); NaN where the channel
            has been pruned.
        lost: collapsed or pruned in the end, shape (K,), bool.
    """

    points: np.ndarray
    lost: np.ndarray


def paths_of(snapshots: Sequence[Snapshot]) -> Paths | None:
    """Of the channels whose gamma and b were finite all the time; None without any."""
    found: dict[tuple[str, int], np.ndarray] = {}  # layer, channel of the unpruned model
    alive = set()
    for step, snapshot in enumerate(snapshots):
        collapsed = collapsed_masks(snapshot, snapshot.threshold)
        alive.clear()  # but for those of the last one
        for name, mask in collapsed.items():
            channels = snapshot.layers[name]
            kept = snapshot.kept.get(name, range(len(mask)))
            pairs = torch.stack([channels.gamma.abs(), channels.bias], 1).double().numpy()
            for channel, pair, small in zip(kept, pairs, mask.tolist()):
                path = found.setdefault((name, channel), np.full((len(snapshots), 2), np.nan))
                path[step] = pair if np.isfinite(pair).all() else np.inf
                if not small:
                    alive.add((name, channel))
    found = {key: path for key, path in found.items() if not np.isinf(path).any()}
    if not found:
        return None
    lost = np.array([key not in alive for key in found])
    return Paths(np.stack(list(found.values())), lost)
