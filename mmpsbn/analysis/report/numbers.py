"""The numbers of a snapshot: by channel, by layer and in all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pruning.census import LayerChannels
from ...pruning.measures import MEASURES, Limits
from ...pruning.sparsity import idle_shares, removable_channels
from .snapshot import Snapshot

NEVER_REACHED = 'never reached by the data'


def collapsed_column(threshold: float) -> str:
    return f'collapsed_{threshold:g}'


def unreached(channels: LayerChannels) -> bool:
    """Whether the data never came to what reads this layer."""
    return channels.activations is not None and not channels.activations.values.any()


def channel_table(snapshot: Snapshot) -> np.recarray:
    """One row a channel, in the model's order; NaN where a number does not apply.

    ``depth`` is the number of the layer, from 0; ``gamma`` is |gamma|, ``bias`` the effective bias
    b, ``l1`` the L1 norm of the filter, ``relative_l1`` that over the median of the layer,
    ``zero_share`` Pr[a = 0], ``universality`` the middle of its bounds, ``peak`` max |a|. 0 or 1
    are ``collapsed`` (by the first threshold), ``collapsed_<threshold>``, ``not_grown``,
    ``hardly_active``, ``dead`` and ``mostly_zero``. What has not grown has not collapsed.
    """
    nobody = LayerChannels(None, torch.zeros(0))  # a model without layers has the columns, too
    columns: dict[str, list[Tensor]] = {}
    for depth, (name, channels) in enumerate([('', nobody), *snapshot.layers.items()], start=-1):
        nothing = torch.full_like(channels.bias, torch.nan)
        row = dict(depth=torch.full_like(channels.bias, depth, dtype=torch.int64))
        for key, column in (row | _columns(snapshot, name, channels)).items():
            columns.setdefault(key, []).append(nothing if column is None else column)
    joined = [torch.cat(parts).numpy() for parts in columns.values()]
    return np.rec.fromarrays(joined, names=list(columns))


def _columns(snapshot: Snapshot, name: str, channels: LayerChannels) -> dict[str, Tensor | None]:
    """Of a layer; None where it cannot tell."""

    def mask(measure: str, threshold: float = snapshot.threshold) -> Tensor | None:
        limits = Limits(gamma=threshold, eps=snapshot.settings.eps)
        has = MEASURES[measure].mask(channels, limits)
        return None if has is None else has.float()

    seen, gamma, l1 = channels.activations, channels.gamma, channels.l1_norms
    found = dict(
        gamma=None if gamma is None else gamma.abs(),
        bias=channels.bias,
        l1=l1,
        # a layer whose median filter is 0 has no scale to compare with
        relative_l1=l1 / l1.median() if l1 is not None and l1.median() > 0 else None,
        zero_share=None if seen is None else seen.zero_share(),
        universality=None if seen is None else torch.stack(seen.universality()).mean(0),
        peak=None if seen is None else seen.peak,
        hardly_active=mask('hardly_active'),
        dead=None if unreached(channels) else mask('dead'),
        mostly_zero=None if unreached(channels) else mask('mostly_zero'),
    )
    for threshold in snapshot.settings.thresholds:
        small, young = mask('collapsed', threshold), snapshot.not_grown.get(threshold, {}).get(name)
        found[collapsed_column(threshold)] = small if young is None else small * ~young
    young = snapshot.not_grown.get(snapshot.threshold, {}).get(name)
    found['not_grown'] = None if young is None else young.float()
    return found | dict(collapsed=found[collapsed_column(snapshot.threshold)])


def _counts(snapshot: Snapshot, table: np.recarray) -> dict[str, int | None]:
    """Channels by property; None where no layer can tell."""
    thresholds = map(collapsed_column, snapshot.settings.thresholds)
    keys = (*thresholds, 'not_grown', 'hardly_active', 'dead', 'mostly_zero')
    return {k: None if np.isnan(table[k]).all() else int(np.nansum(table[k])) for k in keys}


def _average(values: np.ndarray, average) -> float | None:
    """Of the finite ones; None of none."""
    values = torch.from_numpy(values[np.isfinite(values)])
    return float(average(values.double())) if len(values) else None


def _averages(table: np.recarray) -> dict[str, float | None]:
    return dict(
        median_gamma=_average(table.gamma, torch.median),
        median_bias=_average(table.bias, torch.median),
        median_l1=_average(table.l1, torch.median),
        mean_zero_share=_average(table.zero_share, torch.mean),
        mean_universality=_average(table.universality, torch.mean),
    )


def _note(channels: LayerChannels) -> str:
    broken = 0 if channels.gamma is None else int((~channels.gamma.isfinite()).sum())
    notes = [f'gamma is NaN or infinite in {broken} channels'] if broken else []
    return '; '.join(notes + [NEVER_REACHED] * unreached(channels))


def _idle(snapshot: Snapshot, table: np.recarray) -> dict[str, Tensor]:
    """Layer -> the channels that do nothing: dead ones where activations were seen, else those
    that have collapsed; without the layers that cannot tell."""
    idle = torch.from_numpy(table.dead if snapshot.samples else table.collapsed)
    sizes = [len(channels.bias) for channels in snapshot.layers.values()]
    by_layer = zip(snapshot.layers, idle.split(sizes))
    return {name: part == 1 for name, part in by_layer if not part.isnan().any()}


def _at_stake(snapshot: Snapshot, idle: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer -> MACs in which its idle channels take part, as inputs and as outputs."""
    if snapshot.graph is None:
        return {}
    shares = idle_shares(idle, snapshot.graph, snapshot.cost)
    return {name: macs * shares[name] for name, macs in snapshot.cost.macs_of.items()}


def layer_rows(snapshot: Snapshot, table: np.recarray) -> list[dict[str, Any]]:
    """One row a layer of the census, then one for each other layer with MACs; None where a
    number does not apply. MACs are those of the convolution or linear layer that makes the
    channels; where several norms follow one of them they stand with the first."""
    at_stake = _at_stake(snapshot, _idle(snapshot, table))
    macs = dict(snapshot.cost.macs_of) if snapshot.cost else {}
    rows = []

    def add(name: str, writer: str | None, part: np.recarray, note: str) -> None:
        row = dict(layer=name, writer=writer, channels=len(part) or None)
        row |= _counts(snapshot, part) | _averages(part) | dict(note=note)
        count = macs.pop(writer, None)
        rows.append(row | dict(macs=count, macs_at_stake=count and at_stake[writer]))

    for depth, (name, channels) in enumerate(snapshot.layers.items()):
        add(name, channels.writer, table[table.depth == depth], _note(channels))
    for name in list(macs):
        add(name, name, table[:0], '')
    return rows


def totals(
    snapshot: Snapshot, table: np.recarray, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The model as a whole; None where a number does not apply.

    ``not_grown``: filters under the first threshold that are in layers whose gamma began at 0 and
    have not grown, so that they are not among the collapsed; None without such layers.
    ``dead_of_collapsed``: how many of the collapsed filters are dead, of the
    ``observed_collapsed`` that data reached; ``dead_above``: how many dead channels have a scale
    above the first threshold.
    ``silent``: mostly zero and not dead. ``not_finite_activations``: channels that were NaN or
    infinite somewhere.
    ``macs_at_stake``: MACs that idle channels cost, as inputs and as outputs; ``removable``,
    ``macs_removable``: of those, the channels that surgery can remove and what that saves.
    """
    collapsed, dead = table.collapsed == 1, table.dead == 1
    scaled, observed = ~np.isnan(table.collapsed), ~np.isnan(table.dead)
    found = _counts(snapshot, table) | dict(
        layers=len(snapshot.layers),
        channels=len(table),
        scaled_channels=int(scaled.sum()),
        observed_channels=int(observed.sum()),
        median_gamma=_average(table.gamma, torch.median),
        not_finite=int((scaled & ~np.isfinite(table.gamma)).sum()),
    )
    found |= {key: found[key] or 0 for key in map(collapsed_column, snapshot.settings.thresholds)}
    of_data = dict(
        dead=dead,
        mostly_zero=table.mostly_zero == 1,
        observed_collapsed=collapsed & observed,
        dead_of_collapsed=collapsed & dead,
        dead_above=dead & (table.gamma >= np.float32(snapshot.threshold)),
        silent=(table.mostly_zero == 1) & ~dead,
        not_finite_activations=observed & ~np.isfinite(table.peak),
    )
    found |= {key: int(m.sum()) if snapshot.samples else None for key, m in of_data.items()}
    found |= dict.fromkeys(('macs', 'params', 'macs_at_stake', 'removable', 'macs_removable'))
    if snapshot.graph is not None:
        removable = removable_channels(_idle(snapshot, table), snapshot.graph)
        found |= dict(
            macs=snapshot.cost.macs,
            params=snapshot.cost.params,
            macs_at_stake=math.fsum(row['macs_at_stake'] or 0 for row in rows),
            removable=sum(int(mask.sum()) for mask in removable.values()),
            macs_removable=math.fsum(_at_stake(snapshot, removable).values()),
        )
    return found


def small_count(snapshot: Snapshot, threshold: float) -> int:
    """Filters with |gamma| below the threshold, collapsed or not."""
    gammas = [c.gamma for c in snapshot.layers.values() if c.gamma is not None]
    return sum(int((gamma.abs() < threshold).sum()) for gamma in gammas)
