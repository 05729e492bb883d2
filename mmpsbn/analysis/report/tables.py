"""The tables of a report and its numbers at a glance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..view import Column, Table, millions, percent, table_of
from .numbers import collapsed_column, small_count
from .snapshot import Settings, Snapshot
from .theorem import Drop
from .words import share

_WORST = 12
_Rows = Sequence[Mapping[str, Any]]


def _counts(settings: Settings) -> list[Column]:
    return [
        Column('channels', 'channels'),
        *(Column(collapsed_column(t), f'|γ| < {t:g}') for t in settings.thresholds),
        Column('not_grown', 'not grown'),
        Column('perhaps_not_grown', 'perhaps not grown'),
        Column('dead', 'dead'),
        Column('mostly_zero', 'mostly 0'),
    ]


def layer_tables(rows: _Rows, settings: Settings) -> tuple[Table, ...]:
    """The layers with most idle channels, the worst first, and all of them. Layers with channels
    have the numbers that the pictures call them by."""
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
    first = collapsed_column(settings.thresholds[0])

    def idle(row: Mapping[str, Any]) -> float:
        return max(row['dead'] or 0, row[first] or 0) / max(row['channels'] or 1, 1)

    worst = sorted(filter(idle, rows), key=idle, reverse=True)[:_WORST]
    tables = dict(zip(('The layers with most idle channels', 'All layers'), (worst, rows)))
    return tuple(table_of(some, columns, label) for label, some in tables.items() if some)


def checkpoint_table(
    snapshots: Sequence[Snapshot], labels: Sequence[str], found: _Rows, metric: str | None
) -> Table:
    """One row a checkpoint."""
    rows = [
        dict(
            t,
            number=k,
            checkpoint=label,
            share=t['macs_at_stake'] / t['macs'] if t['macs'] else None,
            score=s.scores.get(metric),
        )
        for k, (s, label, t) in enumerate(zip(snapshots, labels, found), start=1)
    ]
    columns = [
        Column('number', '#'),
        Column('checkpoint', 'checkpoint', is_text=True),
        *_counts(snapshots[-1].settings),
        Column('macs', 'MACs, M', show=millions),
        Column('share', 'at stake', show=percent),
        Column('score', metric or '', show=lambda score: '' if score is None else f'{score:.4g}'),
    ]
    return table_of(rows, columns, 'Checkpoints')


def drop_table(drops: Sequence[tuple[str, str, Sequence[Drop]]]) -> Table:
    """One row a layer between two checkpoints."""
    rows = [
        dict(asdict(drop), checkpoints=f'{before} → {after}')
        for before, after, layers in drops
        for drop in layers
    ]
    columns = [
        Column('checkpoints', 'checkpoints', is_text=True),
        Column('layer', 'layer', is_text=True),
        Column('channels', 'channels'),
        Column('left_out', 'left out'),
        Column('grad_std', 'c', show='{:.2e}'.format),
        Column('before', 'Φ before', show='{:.3f}'.format),
        Column('predicted', 'predicted ΔΦ', show='{:+.2e}'.format),
        Column('observed', 'observed ΔΦ', show='{:+.2e}'.format),
    ]
    return table_of(rows, columns, 'By layer')


def tiles_of(snapshot: Snapshot, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers at a glance, and what they are."""
    yield f'{found["layers"]:,}', 'layers with channels'
    yield f'{found["channels"]:,}', 'channels'
    for threshold in snapshot.settings.thresholds[:2]:
        if found['scaled_channels']:
            yield f'{small_count(snapshot, threshold):,}', f'filters with |γ| < {threshold:g}'
    young = dict(not_grown='not grown yet', perhaps_not_grown='perhaps never grown')
    for key, label in young.items():
        if found[key]:
            yield f'{found[key]:,}', f'of |γ| < {snapshot.threshold:g} {label}'
    if found['dead'] is not None:
        yield f'{found["dead"]:,}', 'dead channels'
    if found['macs']:
        yield share(found['macs_at_stake'], found['macs']), 'of FLOPs at stake'
    for metric, value in list(snapshot.scores.items())[:1]:
        yield f'{value:.4g}', metric
