"""Everything that a report says, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...version import __version__
from . import pictures
from .look import Look
from .numbers import channel_table, layer_rows, totals
from .tables import checkpoint_table, drop_table, layer_tables, tiles_of
from .words import findings_of

_SAID = ('name', 'step', 'samples', 'untraced', 'input_shape')  # of a snapshot, as it is


def report_of(
    look: Look, labels: Sequence[str], prune_command: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report says: what the page is rendered from, of the last checkpoint and of what
    changed; and all numbers of all checkpoints, in plain types.

    Args:
        labels: what the checkpoints are called.
        prune_command: see :func:`.write_report`.
    """
    tables = [channel_table(snapshot) for snapshot in look.snapshots]
    rows = [layer_rows(*pair) for pair in zip(look.snapshots, tables)]
    found = [totals(*parts) for parts in zip(look.snapshots, tables, rows)]
    last = look.snapshots[-1]
    looked = f'{last.samples:,} samples' if last.samples else 'its weights alone'
    content = dict(
        title=f'{look.title}: {labels[-1]}',
        subtitle=f'Sparsity report of {looked}, by mmpsbn {__version__}',
        findings=findings_of(
            last, found[-1], prune_command=prune_command, log_looks_at=look.log_looks_at
        ),
        tiles=list(tiles_of(last, found[-1])),
        last=last,
        figures=dict(
            depth=pictures.draw_depth(tables[-1]),
            plane=pictures.draw_plane(tables[-1]),
            scales=pictures.draw_scales(tables[-1], last.threshold),
            l1=pictures.draw_l1_norms(tables[-1]),
            zero_share=pictures.draw_zero_shares(tables[-1]),
            universality=pictures.draw_universality(tables[-1]),
        ),
        layer_tables=layer_tables(rows[-1], last.settings),
        checkpoint_table=None,
        drops=None,
        forecast=None,
    )
    if len(look.snapshots) > 1:
        metric = next((name for s in look.snapshots for name in s.scores), None)
        scores = [s.scores.get(metric) for s in look.snapshots]
        content['checkpoint_table'] = checkpoint_table(look.snapshots, labels, found, metric)
        content['figures'] |= dict(
            rounds=pictures.draw_rounds(found, scores, metric),
            paths=pictures.draw_paths(*pictures.paths_of(look.snapshots, tables)),
        )
    if look.drops:  # Theorem 1 against what happened, on average over channels
        drops = [drop for layers in look.drops.values() for drop in layers]
        weights = [drop.channels for drop in drops]
        content['figures']['drops'] = pictures.draw_drops(drops)
        content['drops'] = dict(
            predicted=np.average([drop.predicted for drop in drops], weights=weights),
            observed=np.average([drop.observed for drop in drops], weights=weights),
            table=drop_table([(labels[k], labels[k + 1], d) for k, d in look.drops.items()]),
        )
    if look.course is not None and not look.course.sentence.startswith('forecast: none'):
        content['forecast'] = look.course.sentence.removeprefix('forecast: ')
    return content, _data(look, rows, found)


def _data(look: Look, rows: Sequence, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [snapshot.name for snapshot in look.snapshots]
    return dict(
        title=look.title,
        version=__version__,
        settings=asdict(look.snapshots[-1].settings),
        checkpoints=[
            {key: getattr(snapshot, key) for key in _SAID}
            | dict(
                totals=found[k],
                scores=snapshot.scores,
                clamped_scores={f'{t:g}': s for t, s in snapshot.clamped_scores.items()},
                layers=rows[k],
            )
            for k, snapshot in enumerate(look.snapshots)
        ],
        drops=[
            dict(before=names[k], after=names[k + 1], layers=[asdict(drop) for drop in layers])
            for k, layers in look.drops.items()
        ],
        forecast=None if look.course is None else dict(sentence=look.course.sentence),
    )
