"""Everything that a report says, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...version import __version__
from . import pictures
from .numbers import channel_table, layer_rows, totals
from .snapshot import Snapshot
from .tables import checkpoint_table, layer_table
from .words import findings_of

_SAID = ('name', 'samples', 'untraced', 'input_shape', 'scores')  # of a snapshot, as it is


def report_of(
    title: str, snapshots: Sequence[Snapshot], prune_command: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report says: what the page is rendered from, of the last checkpoint and of what
    changed; and all numbers of all checkpoints, in plain types.

    Args:
        title: of the subject.
        snapshots: of its checkpoints, in the order of training; one or more.
        prune_command: see :func:`.write_report`.
    """
    tables = [channel_table(snapshot) for snapshot in snapshots]
    rows = [layer_rows(*pair) for pair in zip(snapshots, tables)]
    found = [totals(*parts) for parts in zip(snapshots, tables, rows)]
    last, several = snapshots[-1], len(snapshots) > 1
    looked = f'{last.samples:,} samples' if last.samples else 'its weights alone'
    content = dict(
        title=f'{title}: {last.name}',
        subtitle=f'Sparsity report of {looked}, by mmpsbn {__version__}',
        findings=findings_of(last, found[-1], prune_command=prune_command),
        last=last,
        figures=dict(
            depth=pictures.draw_depth(tables[-1]),
            plane=pictures.draw_plane(tables[-1]),
            scales=pictures.draw_scales(tables[-1], last.threshold),
            l1=pictures.draw_l1_norms(tables[-1]),
            zero_share=pictures.draw_zero_shares(tables[-1]),
            universality=pictures.draw_universality(tables[-1]),
            paths=pictures.draw_paths(*pictures.paths_of(snapshots, tables)) if several else None,
        ),
        layer_table=layer_table(rows[-1], last.settings),
        checkpoint_table=checkpoint_table(snapshots, found) if several else None,
    )
    return content, _data(title, snapshots, rows, found)


def _data(
    title: str, snapshots: Sequence[Snapshot], rows: Sequence, found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return dict(
        title=title,
        version=__version__,
        settings=asdict(snapshots[-1].settings),
        checkpoints=[
            {key: getattr(snapshot, key) for key in _SAID}
            | dict(
                totals=found[k],
                clamped_scores={f'{t:g}': s for t, s in snapshot.clamped_scores.items()},
                layers=rows[k],
            )
            for k, snapshot in enumerate(snapshots)
        ],
    )
