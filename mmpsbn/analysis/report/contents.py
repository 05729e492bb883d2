"""Everything that a report says, before anything is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...version import __version__
from ..view import Chart, Section, View
from .look import Look
from .numbers import channel_table, layer_rows, totals
from .pictures import (
    draw_depth,
    draw_drops,
    draw_l1_norms,
    draw_paths,
    draw_plane,
    draw_rounds,
    draw_scales,
    draw_universality,
    draw_zero_shares,
    paths_of,
)
from .tables import checkpoint_table, drop_table, glossary_of, layer_tables, tiles_of
from .words import findings_of

_SAID = ('name', 'step', 'samples', 'untraced', 'input_shape')  # of a snapshot, as it is


def report_of(
    look: Look, labels: Sequence[str], prune_command: str | None
) -> tuple[View, dict[str, Any]]:
    """What a report says: in words, tables and charts, of the last checkpoint and of what changed;
    and all numbers of all checkpoints, in plain types. ``labels`` are those of the checkpoints."""
    tables = [channel_table(snapshot) for snapshot in look.snapshots]
    rows = [layer_rows(*pair) for pair in zip(look.snapshots, tables)]
    found = [totals(*parts) for parts in zip(look.snapshots, tables, rows)]
    last = look.snapshots[-1]
    looked = f'{last.samples:,} samples' if last.samples else 'its weights alone'
    view = View(
        title=f'{look.title}: {labels[-1]}',
        subtitle=f'Sparsity report of {looked}, by mmpsbn {__version__}',
        findings=findings_of(
            last, found[-1], prune_command=prune_command, log_looks_at=look.log_looks_at
        ),
        tiles=tuple(tiles_of(last, found[-1])),
        sections=(
            Section('Pictures', charts=_charts(tables[-1], last.threshold)),
            Section('Layers', tables=layer_tables(rows[-1], last.settings)),
            *_sections(look, labels, tables, found),
        ),
        glossary=glossary_of(last),
    )
    names = [snapshot.name for snapshot in look.snapshots]
    data = dict(
        title=look.title,
        version=__version__,
        settings=asdict(last.settings),
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
    return view, data


def _charts(channels: np.recarray, threshold: float) -> tuple[Chart, ...]:
    """Of the last checkpoint."""
    return (
        Chart(
            'depth',
            'Sparsity by depth',
            'Share of the channels of each layer; the numbers are those of the table.',
            draw_depth(channels),
        ),
        Chart(
            'plane',
            'Scale and bias of every channel',
            'Shaded: where a ReLU right behind passes less than 1 % of a normally distributed '
            'input, so that hardly any gradient comes back and weight decay alone moves the '
            'channel, straight to the origin. (psBN paper, figure 1b)',
            draw_plane(channels),
        ),
        Chart(
            'scales',
            'Scales and biases by layer',
            'One dot a channel, side by side within a layer; |γ| below 1e-6 is drawn there.',
            draw_scales(channels, threshold),
        ),
        Chart(
            'l1',
            'L1 norms of the filters',
            'A separate peak at 0 is the mark of collapse. (psBN paper, figure 1a; here of all '
            'layers, each over its own median)',
            draw_l1_norms(channels),
        ),
        Chart(
            'zero_share',
            'How often a channel is 0',
            'Share of positions and samples at which the activation is exactly 0. (Frankle et '
            'al., section 5)',
            draw_zero_shares(channels),
        ),
        Chart(
            'universality',
            'Universality',
            'Left: channels that few samples excite. Right: channels that all do. (Mehta et '
            'al., section 3)',
            draw_universality(channels),
        ),
    )


def _sections(
    look: Look,
    labels: Sequence[str],
    tables: Sequence[np.recarray],
    found: Sequence[Mapping[str, Any]],
) -> Iterator[Section]:
    """What comes from several checkpoints and from the config."""
    if len(look.snapshots) > 1:
        metric = next((name for s in look.snapshots for name in s.scores), None)
        scores = [s.scores.get(metric) for s in look.snapshots]
        yield Section(
            'From checkpoint to checkpoint',
            charts=(
                Chart(
                    'rounds',
                    'Sparsity by checkpoint',
                    'Share of channels, and of the multiply-accumulates that idle ones take, at '
                    'each checkpoint; below, the score. (psBN paper, figure 3)',
                    draw_rounds(found, scores, metric),
                ),
                Chart(
                    'paths',
                    'Ways through the (γ, b) plane',
                    'Each line is a channel. Collapsing filters run to the origin, out of which no '
                    'gradient leads. (psBN paper, figure 1b)',
                    draw_paths(*paths_of(look.snapshots, tables)),
                ),
            ),
            tables=(checkpoint_table(look.snapshots, labels, found, metric),),
        )
    if look.drops:
        yield _theory(look, labels)
    if look.course is not None and not look.course.sentence.startswith('forecast: none'):
        words = look.course.sentence.removeprefix('forecast: ')
        yield Section('Forecast', (f'Were such a run begun with these scales: {words}.',))


def _theory(look: Look, labels: Sequence[str]) -> Section:
    """Theorem 1 against what happened."""
    drops = [drop for layers in look.drops.values() for drop in layers]
    weights = [drop.channels for drop in drops]
    predicted = np.average([drop.predicted for drop in drops], weights=weights)
    observed = np.average([drop.observed for drop in drops], weights=weights)
    return Section(
        'Theory against this run',
        (
            'Theorem 1 of the psBN paper says how gradient noise alone moves the probability '
            'Φ(b/|γ|) that a channel fires. On average over channels it predicts '
            f'{predicted:+.2e} between two checkpoints, and {observed:+.2e} was observed.',
            'Assumptions: the noise in dL/dy has mean 0, one standard deviation c in a layer, '
            'and is independent of the activation, so c² = Σ Var[dL/dβ] / Σ Φ over the '
            'channels, the variance taken over batches of the training data at the earlier '
            'checkpoint; γ, b and c are held there for all steps between the two; with momentum m '
            'a step counts as lr/(1 − m). Channels with |γ| of the size of a step are left out, as '
            'the theorem fails there. What the loss itself wants of γ and b is not in the '
            'prediction, but is in what was observed.',
        ),
        (
            Chart(
                'drops',
                'Predicted and observed',
                'One dot a layer; on the dashed line noise alone explains the change.',
                draw_drops(drops),
            ),
        ),
        (drop_table([(labels[k], labels[k + 1], layers) for k, layers in look.drops.items()]),),
    )
