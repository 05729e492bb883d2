"""The parts of the page that come from several checkpoints and from the config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from .course import Course
from .numbers import collapsed_column
from .page import Head, Picture, Row, Section, Table, shown
from .rounds import draw_paths, draw_rounds
from .snapshot import Settings, Snapshot
from .style import BLUE, GREY, legend, new_figure, scatter
from .theorem import Drop


def rounds_section(
    snapshots: Sequence[Snapshot], found: Sequence[dict[str, Any]], settings: Settings
) -> Section:
    """What changed from checkpoint to checkpoint."""
    metric = next((name for s in snapshots for name in s.scores), None)
    scores = [s.scores.get(metric) for s in snapshots]
    pictures = [
        Picture(
            'rounds',
            'Sparsity by checkpoint',
            'Share of channels, and of the multiply-accumulates that idle ones take, at each '
            'checkpoint; below, the score. (psBN paper, figure 3)',
            draw_rounds([s.name for s in snapshots], found, scores, metric),
        )
    ]
    paths = draw_paths(snapshots, settings)
    if paths is not None:
        pictures.append(
            Picture(
                'paths',
                'Ways through the (γ, b) plane',
                'Each line is a channel. Collapsing filters run to the origin, out of which no '
                'gradient leads. (psBN paper, figure 1b)',
                paths,
            )
        )
    heads = [Head('#'), Head('checkpoint', text=True), Head('channels')]
    heads += [Head(f'collapsed, |γ| < {threshold:g}') for threshold in settings.thresholds]
    young = any(t['not_grown'] for t in found)
    heads += [Head('not grown')] if young else []
    heads += [Head('dead'), Head('mostly 0'), Head('MACs, M'), Head('at stake')]
    heads += [Head(metric)] if metric else []
    rows = []
    for number, (snapshot, t) in enumerate(zip(snapshots, found), start=1):
        cells = [str(number), snapshot.name, shown(t['channels'])]
        cells += [shown(t[collapsed_column(threshold)]) for threshold in settings.thresholds]
        cells += [shown(t['not_grown'])] if young else []
        cells += [shown(t['dead']), shown(t['mostly_zero'])]
        macs = t['macs']
        cells += [f'{macs / 1e6:,.3g}', f'{t["macs_at_stake"] / macs:.2%}'] if macs else ['', '']
        cells += [f'{snapshot.scores[metric]:.4g}'] if metric else []
        rows.append(Row(tuple(cells)))
    return Section(
        'From checkpoint to checkpoint',
        pictures=tuple(pictures),
        table=Table(tuple(heads), tuple(rows)),
        label='Checkpoints',
    )


def course_section(course: Course, threshold: float) -> Section:
    """When a filter that dies counts as collapsed in a run like this config's."""
    words = course.sentence.removeprefix('forecast: ')
    paragraphs = [
        f'Were such a run begun with these scales: {words}.',
    ]
    table = None
    if course.alternatives:
        paragraphs.append(
            'The same filter and the same decay under other optimizers, with the schedule in '
            'its shape and its peak at the learning rate named:'
        )
        table = Table(
            (
                Head('optimizer', text=True),
                Head(f'steps to |γ| < {threshold:g}'),
                Head('|γ| kept at the end'),
            ),
            tuple(
                Row(
                    (
                        a.name,
                        f'not in {course.num_steps:,}' if a.steps is None else f'{a.steps:,}',
                        f'{a.kept:.3g}',
                    )
                )
                for a in course.alternatives
            ),
        )
    return Section('Forecast', tuple(paragraphs), table=table, label='Optimizers')


def drop_section(drops: Sequence[tuple[str, str, list[Drop]]]) -> Section:
    """Theorem 1 against what happened.

    Args:
        drops: (checkpoint, the next one, by layer); empty where nothing can be predicted, and
            then the section says what it would take.
    """
    if not drops:
        needed = (
            'Theorem 1 predicts nothing here: it takes --data with a config that trains by SGD on '
            'a known schedule, the training data, and checkpoints that say their iteration.'
        )
        return Section('Theory against this run', (needed,))
    rows = []
    for before, after, layers in drops:
        for drop in layers:
            cells = (
                f'{before} → {after}',
                drop.layer,
                f'{drop.channels:,}',
                f'{drop.left_out:,}',
                f'{drop.grad_std:.2e}',
                f'{drop.before:.3f}',
                f'{drop.predicted:+.2e}',
                f'{drop.observed:+.2e}',
            )
            rows.append(Row(cells))
    heads = (
        Head('checkpoints', text=True),
        Head('layer', text=True),
        Head('channels'),
        Head('left out', 'channels with |γ| of the size of a step, where the theorem fails'),
        Head('c', 'standard deviation of the gradient noise of a batch'),
        Head('Φ before'),
        Head('predicted ΔΦ'),
        Head('observed ΔΦ'),
    )
    layers = [drop for _, _, found in drops for drop in found]
    weights = np.array([drop.channels for drop in layers])
    mean = {
        kind: float(np.average([getattr(drop, kind) for drop in layers], weights=weights))
        for kind in ('predicted', 'observed')
    }
    figure, ((axes,),) = new_figure()
    scatter(
        axes,
        [drop.predicted for drop in layers],
        [drop.observed for drop in layers],
        colour=BLUE,
        label='a layer between two checkpoints',
        gid='drops',
        size=20,
    )
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle='--', label='as predicted')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter('{x:.2g}')
    axes.set(xlabel='change of Φ by Theorem 1', ylabel='observed change of Φ')
    legend(axes)
    return Section(
        'Theory against this run',
        (
            'Theorem 1 of the psBN paper says how gradient noise alone moves the probability '
            'Φ(b/|γ|) that a channel fires. On average over channels it predicts '
            f'{mean["predicted"]:+.2e} between two checkpoints, and {mean["observed"]:+.2e} was '
            'observed.',
            'Assumptions: the noise in dL/dy has mean 0, one standard deviation c in a layer, '
            'and is independent of the activation, so c² = Σ Var[dL/dβ] / Σ Φ over the '
            'channels, the variance taken over batches of the training data at the earlier '
            'checkpoint; γ, b and c are held there for all steps between the two; with momentum m '
            'a step counts as lr/(1 − m). What the loss itself wants of γ and b is not in the '
            'prediction, but is in what was observed.',
        ),
        (
            Picture(
                'drops',
                'Predicted and observed',
                'One dot a layer; on the dashed line noise alone explains the change.',
                figure,
            ),
        ),
        Table(heads, tuple(rows)),
        'By layer',
    )
