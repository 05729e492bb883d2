"""The tables of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..view import Column, Table, millions, percent, table_of
from .numbers import collapsed_column
from .snapshot import Settings, Snapshot

_Rows = Sequence[Mapping[str, Any]]


def _counts(settings: Settings) -> list[Column]:
    return [
        Column('channels', 'channels'),
        *(Column(collapsed_column(t), f'|γ| < {t:g}') for t in settings.thresholds),
        Column('not_grown', 'not grown'),
        Column('dead', 'dead'),
        Column('mostly_zero', 'mostly 0'),
    ]


def layer_table(rows: _Rows, settings: Settings) -> Table:
    """One row a layer; those with channels have the numbers that the pictures call them by."""
    rows = [
        dict(
            row,
            number=k if row['channels'] else None,
            layer=f'{row["layer"]} ({row["note"]})' if row['note'] else row['layer'],
        )
        for k, row in enumerate(rows, start=1)
    ]
    columns = [
        Column('number', '#'),
        Column('layer', 'layer', is_text=True),
        *_counts(settings),
        Column('hardly_active', 'Φ < 1 %'),
        Column('median_gamma', 'median |γ|'),
        Column('median_bias', 'median b'),
        Column('median_l1', 'median ‖w‖₁'),
        Column('mean_zero_share', 'Pr[a = 0]', show=percent),
        Column('mean_universality', 'universality', show=percent),
        Column('macs', 'MACs, M', show=millions),
        Column('macs_at_stake', 'at stake, M', show=millions),
    ]
    return table_of(rows, columns, 'All layers')


def checkpoint_table(snapshots: Sequence[Snapshot], found: _Rows) -> Table:
    """One row a checkpoint, with the first score."""
    metric = next((name for s in snapshots for name in s.scores), None)
    rows = [
        dict(
            t,
            checkpoint=s.name,
            share=t['macs_at_stake'] / t['macs'] if t['macs'] else None,
            score=s.scores.get(metric),
        )
        for s, t in zip(snapshots, found)
    ]
    columns = [
        Column('checkpoint', 'checkpoint', is_text=True),
        *_counts(snapshots[-1].settings),
        Column('macs', 'MACs, M', show=millions),
        Column('share', 'at stake', show=percent),
        Column('score', metric or '', show=lambda score: '' if score is None else f'{score:.4g}'),
    ]
    return table_of(rows, columns, 'Checkpoints')
