"""The numbers of a snapshot, as plain data: by layer and in all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...pruning.census import LayerChannels
from ...pruning.measures import MEASURES, Limits
from ...pruning.sparsity import idle_shares, removable_channels
from .snapshot import Snapshot

NEVER_REACHED = 'never reached by the data'
_BY_LAYER = ('hardly_active', 'dead', 'mostly_zero')  # measures that stand in a layer's row


def masks_of(snapshot: Snapshot, measure: str, gamma: float | None = None) -> dict[str, Tensor]:
    """Layer -> the channels that have a property of MEASURES, shape (C,), bool, where the layer
    can tell. ``gamma`` is another threshold than the first."""
    limits = Limits(gamma=gamma or snapshot.threshold, eps=snapshot.settings.eps)
    found = {n: MEASURES[measure].mask(c, limits) for n, c in snapshot.layers.items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def collapsed_masks(snapshot: Snapshot, threshold: float) -> dict[str, Tensor]:
    """Layer with scales -> the channels that have collapsed. What is known not to have grown has
    not; what perhaps never grew is in it."""
    young = snapshot.not_grown.get(threshold, {}) if snapshot.growth_from else {}
    small = masks_of(snapshot, 'collapsed', threshold)
    return {n: mask & ~young[n] if n in young else mask for n, mask in small.items()}


def small_count(snapshot: Snapshot, threshold: float) -> int:
    """Filters with |gamma| below the threshold, collapsed or not."""
    masks = masks_of(snapshot, 'collapsed', threshold).values()
    return sum(int(mask.sum()) for mask in masks)


def idle_masks(snapshot: Snapshot) -> dict[str, Tensor]:
    """Layer -> the channels that do nothing: dead ones where activations were seen, else those
    that have collapsed."""
    if snapshot.samples:
        return masks_of(snapshot, 'dead')
    return collapsed_masks(snapshot, snapshot.threshold)


def unreached(channels: LayerChannels) -> bool:
    """Whether the data never came to what reads this layer."""
    return channels.activations is not None and not channels.activations.values.any()


def collapsed_column(threshold: float) -> str:
    return f'collapsed_{threshold:g}'


def layer_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """One row a layer of the census, then one for each other layer with MACs; None where a
    number does not apply. MACs are those of the convolution or linear layer that makes the
    channels; where several norms follow one of them they stand with the first."""
    at_stake = _at_stake(snapshot, idle_masks(snapshot))
    macs = dict(snapshot.cost.macs_of) if snapshot.cost else {}
    masks = _scale_masks(snapshot) | {m: masks_of(snapshot, m) for m in _BY_LAYER}
    rows = []
    for name, channels in snapshot.layers.items():
        row = dict(layer=name, writer=channels.writer, channels=len(channels.bias))
        for key, by_layer in masks.items():
            row[key] = int(by_layer[name].sum()) if name in by_layer else None
        if unreached(channels):
            row |= dict(dead=None, mostly_zero=None)
        row |= _averages(channels)
        row['macs'] = macs.pop(channels.writer, None)
        row['macs_at_stake'] = None if row['macs'] is None else at_stake[channels.writer]
        rows.append(row)
    empty = dict.fromkeys(['channels', *masks, *_averages(LayerChannels(None, torch.zeros(0)))])
    for name, count in macs.items():
        extra = dict(macs=count, macs_at_stake=at_stake[name])
        rows.append(dict(layer=name, writer=name, **(empty | extra)))
    return rows


def _scale_masks(snapshot: Snapshot) -> dict[str, dict[str, Tensor]]:
    """What small scales mean: column -> layer -> channels."""
    thresholds = snapshot.settings.thresholds
    young = snapshot.not_grown.get(snapshot.threshold, {})
    return {collapsed_column(t): collapsed_masks(snapshot, t) for t in thresholds} | dict(
        not_grown=young if snapshot.growth_from else {},
        perhaps_not_grown={} if snapshot.growth_from else young,
    )


def _averages(channels: LayerChannels) -> dict[str, Any]:
    seen, gamma = channels.activations, channels.gamma
    universality = None if seen is None else torch.stack(seen.universality()).mean(0)
    return dict(
        median_gamma=_average(None if gamma is None else gamma.abs(), torch.median),
        median_bias=_average(channels.bias, torch.median),
        median_l1=_average(channels.l1_norms, torch.median),
        mean_zero_share=_average(None if seen is None else seen.zero_share(), torch.mean),
        mean_universality=_average(universality, torch.mean),
        note=_note(channels),
    )


def _note(channels: LayerChannels) -> str:
    notes = []
    if channels.gamma is not None and not channels.gamma.isfinite().all():
        broken = int((~channels.gamma.isfinite()).sum())
        notes.append(f'gamma is NaN or infinite in {broken} channels')
    if unreached(channels):
        notes.append(NEVER_REACHED)
    return '; '.join(notes)


def _average(values: Tensor | None, average) -> float | None:
    """Of the finite ones; None of none."""
    values = torch.zeros(0) if values is None else values[values.isfinite()]
    return float(average(values.double())) if values.numel() else None


def _at_stake(snapshot: Snapshot, idle: Mapping[str, Tensor]) -> dict[str, float]:
    if snapshot.graph is None:
        return {}
    shares = idle_shares(idle, snapshot.graph, snapshot.cost)
    return {name: macs * shares[name] for name, macs in snapshot.cost.macs_of.items()}


def totals(snapshot: Snapshot, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The model as a whole, of its :func:`layer_rows`; None where a number does not apply.

    ``not_grown``: filters under the first threshold that are in layers whose gamma began at 0 and
    have not grown, so that they are not among the collapsed; ``perhaps_not_grown``: those among
    the collapsed of which nothing tells whether they ever grew. None without such layers.
    ``dead_of_collapsed``: how many of the collapsed filters are dead, of the
    ``observed_collapsed`` that data reached; ``dead_above``: how many dead channels have a scale
    above the first threshold.
    ``silent``: mostly zero and not dead. ``not_finite_activations``: channels that were NaN or
    infinite somewhere.
    ``macs_at_stake``: MACs that idle channels cost (see :func:`idle_masks`), as inputs and as
    outputs; ``removable``, ``macs_removable``: of those, the channels that surgery can remove
    and what that saves.
    """
    thresholds = [collapsed_column(t) for t in snapshot.settings.thresholds]
    gammas = {n: c.gamma.abs() for n, c in snapshot.layers.items() if c.gamma is not None}
    found: dict[str, Any] = dict(
        layers=len(snapshot.layers),
        channels=sum(len(c.bias) for c in snapshot.layers.values()),
        scaled_channels=sum(map(len, gammas.values())),
    )
    found |= {key: _sum(rows, key) or 0 for key in thresholds}
    found |= {key: _sum(rows, key) for key in ('not_grown', 'perhaps_not_grown', *_BY_LAYER)}
    if snapshot.samples:  # also where the data reached no layer
        found |= {key: found[key] or 0 for key in ('dead', 'mostly_zero')}
    found |= _of_activations(snapshot, gammas)
    found['median_gamma'] = _average(torch.cat([*gammas.values(), torch.zeros(0)]), torch.median)
    found['not_finite'] = sum(int((~g.isfinite()).sum()) for g in gammas.values())
    found |= dict.fromkeys(('macs', 'params', 'macs_at_stake', 'removable', 'macs_removable'))
    if snapshot.graph is not None:
        removable = removable_channels(idle_masks(snapshot), snapshot.graph)
        found |= dict(
            macs=snapshot.cost.macs,
            params=snapshot.cost.params,
            macs_at_stake=math.fsum(row['macs_at_stake'] or 0 for row in rows),
            removable=sum(int(mask.sum()) for mask in removable.values()),
            macs_removable=math.fsum(_at_stake(snapshot, removable).values()),
        )
    return found


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """Of a column; None where no layer can tell."""
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) if values else None


def _of_activations(snapshot: Snapshot, gammas: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the layers that data reached say together."""
    reached = {
        name: len(c.bias)
        for name, c in snapshot.layers.items()
        if c.activations is not None and not unreached(c)
    }
    found = dict(observed_channels=sum(reached.values()), observed_collapsed=None)
    found |= dict.fromkeys(('dead_of_collapsed', 'dead_above', 'silent', 'not_finite_activations'))
    if not snapshot.samples:
        return found
    dead, mostly = masks_of(snapshot, 'dead'), masks_of(snapshot, 'mostly_zero')
    small = collapsed_masks(snapshot, snapshot.threshold)
    scaled = [name for name in reached if name in gammas]
    large = {name: gammas[name] >= snapshot.threshold for name in scaled}
    peaks = [snapshot.layers[name].activations.peak for name in reached]
    return found | dict(
        observed_collapsed=sum(int(small[name].sum()) for name in scaled),
        dead_of_collapsed=sum(int((small[name] & dead[name]).sum()) for name in scaled),
        dead_above=sum(int((large[name] & dead[name]).sum()) for name in scaled),
        silent=sum(int((mostly[name] & ~dead[name]).sum()) for name in reached),
        not_finite_activations=sum(int((~peak.isfinite()).sum()) for peak in peaks),
    )
