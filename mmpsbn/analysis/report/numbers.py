"""The numbers of a snapshot, as plain data: by layer and in all."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...pruning.census import LayerChannels
from ...pruning.measures import MEASURES, Limits
from ...pruning.sparsity import idle_shares, removable_channels
from .snapshot import Settings, Snapshot

NEVER_REACHED = 'never reached by the data'
NOT_FINITE = 'gamma is NaN or infinite in {} channels'


def masks_of(snapshot: Snapshot, settings: Settings, measure: str) -> dict[str, Tensor]:
    """Layer -> the channels that have a property of MEASURES, where the layer can tell. What has
    not grown has not collapsed."""
    if measure == 'collapsed':
        return collapsed_masks(snapshot, settings.thresholds[0])
    limits = Limits(gamma=settings.thresholds[0], eps=settings.eps)
    return _masks(snapshot, measure, limits)


def collapsed_masks(snapshot: Snapshot, threshold: float) -> dict[str, Tensor]:
    """Layer with scales -> the channels that have collapsed. What is known not to have grown has
    not; what perhaps never grew is in it."""
    young = snapshot.not_grown.get(threshold, {}) if snapshot.growth_from else {}
    small = _masks(snapshot, 'collapsed', Limits(threshold, eps=0.0))
    return {n: mask & ~young[n] if n in young else mask for n, mask in small.items()}


def small_count(snapshot: Snapshot, threshold: float) -> int:
    """Filters with |gamma| below the threshold, collapsed or not."""
    return _count(_masks(snapshot, 'collapsed', Limits(threshold, eps=0.0))) or 0


def _masks(snapshot: Snapshot, measure: str, limits: Limits) -> dict[str, Tensor]:
    found = {n: MEASURES[measure].mask(c, limits) for n, c in snapshot.layers.items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def idle_masks(snapshot: Snapshot, settings: Settings) -> dict[str, Tensor]:
    """Layer -> the channels that do nothing: dead ones where activations were seen, else those
    that have collapsed."""
    return masks_of(snapshot, settings, 'dead' if snapshot.samples else 'collapsed')


def unreached(channels: LayerChannels) -> bool:
    """Whether the data never came to what reads this layer."""
    return channels.activations is not None and not channels.activations.values.any()


def collapsed_column(threshold: float) -> str:
    return f'collapsed_{threshold:g}'


def layer_rows(snapshot: Snapshot, settings: Settings) -> list[dict[str, Any]]:
    """One row a layer of the census, then one for each other layer with MACs; None where a
    number does not apply. MACs are those of the convolution or linear layer that makes the
    channels; where several norms follow one of them they stand with the first."""
    at_stake = _at_stake(snapshot, idle_masks(snapshot, settings))
    macs = dict(snapshot.cost.macs_of) if snapshot.cost else {}
    scales = _scale_masks(snapshot, settings)
    rows = []
    for name, channels in snapshot.layers.items():
        row = dict(layer=name, writer=channels.writer, channels=len(channels.bias))
        row |= {key: _size(masks.get(name)) for key, masks in scales.items()}
        row |= _channel_columns(channels, settings)
        row['macs'] = macs.pop(channels.writer, None)
        row['macs_at_stake'] = None if row['macs'] is None else at_stake[channels.writer]
        rows.append(row)
    empty = dict.fromkeys(['channels', *scales, *_channel_columns(_NO_CHANNELS, settings)])
    for name, count in macs.items():
        extra = dict(macs=count, macs_at_stake=at_stake[name])
        rows.append(dict(layer=name, writer=name, **(empty | extra)))
    return rows


def _scale_masks(snapshot: Snapshot, settings: Settings) -> dict[str, dict[str, Tensor]]:
    """What small scales mean: column -> layer -> channels."""
    columns = {collapsed_column(t): collapsed_masks(snapshot, t) for t in settings.thresholds}
    young = snapshot.not_grown.get(settings.thresholds[0], {})
    return columns | dict(
        not_grown=young if snapshot.growth_from else {},
        perhaps_not_grown={} if snapshot.growth_from else young,
    )


_NO_CHANNELS = LayerChannels(None, torch.zeros(0))


def _channel_columns(channels: LayerChannels, settings: Settings) -> dict[str, Any]:
    limits = Limits(settings.thresholds[0], settings.eps)
    columns: dict[str, Any] = {
        measure: _size(MEASURES[measure].mask(channels, limits))
        for measure in ('hardly_active', 'dead', 'mostly_zero')
    }
    if unreached(channels):
        columns |= dict(dead=None, mostly_zero=None)
    seen = channels.activations
    universality = None if seen is None else torch.stack(seen.universality()).mean(0)
    columns |= dict(
        median_gamma=_median(channels.gamma if channels.gamma is None else channels.gamma.abs()),
        median_bias=_median(channels.bias),
        median_l1=_median(channels.l1_norms),
        mean_zero_share=_mean(None if seen is None else seen.zero_share()),
        mean_universality=_mean(universality),
        note=_note(channels),
    )
    return columns


def _size(mask: Tensor | None) -> int | None:
    return None if mask is None else int(mask.sum())


def _note(channels: LayerChannels) -> str:
    notes = []
    if channels.gamma is not None and not channels.gamma.isfinite().all():
        notes.append(NOT_FINITE.format(int((~channels.gamma.isfinite()).sum())))
    if unreached(channels):
        notes.append(NEVER_REACHED)
    return '; '.join(notes)


def _finite(values: Tensor | None) -> Tensor:
    return torch.zeros(0) if values is None else values[values.isfinite()]


def _median(values: Tensor | None) -> float | None:
    values = _finite(values)
    return float(values.double().median()) if values.numel() else None


def _mean(values: Tensor | None) -> float | None:
    values = _finite(values)
    return float(values.double().mean()) if values.numel() else None


def _at_stake(snapshot: Snapshot, idle: Mapping[str, Tensor]) -> dict[str, float]:
    if snapshot.graph is None:
        return {}
    shares = idle_shares(idle, snapshot.graph, snapshot.cost)
    return {name: macs * shares[name] for name, macs in snapshot.cost.macs_of.items()}


def totals(snapshot: Snapshot, settings: Settings) -> dict[str, Any]:
    """The model as a whole; None where a number does not apply.

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
    layers = snapshot.layers.values()
    limits = Limits(settings.thresholds[0], settings.eps)
    scaled = [c for c in layers if c.gamma is not None]
    found: dict[str, Any] = dict(
        layers=len(snapshot.layers),
        channels=sum(len(c.bias) for c in layers),
        scaled_channels=sum(len(c.bias) for c in scaled),
    )
    scales = _scale_masks(snapshot, settings)
    found |= {key: _count(masks) for key, masks in scales.items()}
    for threshold in settings.thresholds:
        found[collapsed_column(threshold)] = found[collapsed_column(threshold)] or 0
    for measure in ('hardly_active', 'dead', 'mostly_zero'):
        found[measure] = _count(masks_of(snapshot, settings, measure))
    reached = {
        name: c
        for name, c in snapshot.layers.items()
        if c.activations is not None and not unreached(c)
    }
    seen = list(reached.values())
    found['observed_channels'] = sum(len(c.bias) for c in seen)
    found |= dict.fromkeys(
        ('observed_collapsed', 'dead_of_collapsed', 'dead_above', 'silent')
        + ('not_finite_activations',)
    )
    if snapshot.samples:
        dead = [MEASURES['dead'].mask(c, limits) for c in seen]
        pairs = [(c, mask) for c, mask in zip(seen, dead) if c.gamma is not None]
        small = masks_of(snapshot, settings, 'collapsed')
        collapsed = [(small[n], mask) for n, mask in zip(reached, dead) if n in small]
        found |= dict(
            observed_collapsed=sum(int(mask.sum()) for mask, _ in collapsed),
            dead_of_collapsed=sum(int((mask & silent).sum()) for mask, silent in collapsed),
            dead_above=sum(
                int((mask & (c.gamma.abs() >= limits.gamma)).sum()) for c, mask in pairs
            ),
            silent=sum(
                int((MEASURES['mostly_zero'].mask(c, limits) & ~mask).sum())
                for c, mask in zip(seen, dead)
            ),
            not_finite_activations=sum(int((~c.activations.peak.isfinite()).sum()) for c in seen),
        )
    gammas = [c.gamma.abs() for c in scaled]
    found['median_gamma'] = _median(torch.cat(gammas)) if gammas else None
    found['not_finite'] = sum(int((~g.isfinite()).sum()) for g in gammas)
    found |= dict(macs=None, params=None, macs_at_stake=None, removable=None, macs_removable=None)
    if snapshot.graph is not None:
        idle = idle_masks(snapshot, settings)
        removable = removable_channels(idle, snapshot.graph)
        found |= dict(
            macs=snapshot.cost.macs,
            params=snapshot.cost.params,
            macs_at_stake=math.fsum(_at_stake(snapshot, idle).values()),
            removable=sum(int(mask.sum()) for mask in removable.values()),
            macs_removable=math.fsum(_at_stake(snapshot, removable).values()),
        )
    return found


def _count(masks: Mapping[str, Tensor]) -> int | None:
    return sum(int(mask.sum()) for mask in masks.values()) if masks else None
