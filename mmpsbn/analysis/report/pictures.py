"""The pictures of a report: what a chart holds in, a matplotlib ``Figure`` out.

Each ``draw_*`` returns None where there is nothing to draw: no scales, no writers, or no data.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..style import BLUE, GREEN, GREY, INK, ORANGE, RED, legend, new_figure, scatter
from ..view import Chart
from .channels import Channels, Paths
from .theorem import Drop

# The non-trainable region: a ReLU right behind passes less than this of a normal input.
_REGION = 0.01
_FLOOR = 1e-6  # scales below it are drawn there
_MOSTLY = 0.99
_BARS = 120  # more of them are drawn without gaps
_MOST_PATHS = 400  # more of them are a smear; those that collapse are drawn first
_STATES = dict(other=BLUE, dead=ORANGE, collapsed=RED)


def draw(chart: Chart) -> Figure | None:
    """By the name of the chart."""
    return _DRAW[chart.name](chart.data)


def draw_plane(channels: Channels) -> Figure | None:
    """The (|gamma|, b) plane with the non-trainable region Phi(b / |gamma|) < 1 % shaded
    (psBN paper figure 1b and equation 2)."""
    channels = channels.where_finite('gamma', 'bias')
    if channels is None:
        return None
    figure, ((axes,),) = new_figure()
    right = 1.06 * max(float(channels.gamma.max()), 1e-3)
    low, high = float(channels.bias.min()), float(channels.bias.max())
    margin = 0.06 * max(high - low, 0.1)  # of a net just built all are 0
    _shade_region(axes, right, min(low, 0) - margin)
    _scatter_states(axes, channels, channels.gamma, channels.bias)
    axes.set(xlim=(-0.02 * right, right), ylim=(min(low, 0) - margin, max(high, 0) + margin))
    axes.set(xlabel='|γ|', ylabel='effective bias b')
    legend(axes)
    return figure


def _shade_region(axes: Axes, right: float, bottom: float) -> None:
    """b < z |gamma| with Phi(z) = 1 %."""
    edge = np.array([0, right])
    upper = NormalDist().inv_cdf(_REGION) * edge
    style = dict(color=GREY, alpha=0.22, linewidth=0, label='non-trainable', gid='region')
    axes.fill_between(edge, upper, min(bottom, 1.1 * upper[1]), **style)
    axes.axhline(0, color=GREY, linewidth=0.8)


def draw_scales(channels: Channels) -> Figure | None:
    """|gamma| and b of every channel by layer, the threshold as a line."""
    scaled = channels.where_finite('gamma')
    if scaled is None:
        return None
    figure, ((top,), (bottom,)) = new_figure(2, 1, height=4.9, sharex=True)
    # side by side within the layer, in the order of the channels
    first = np.searchsorted(scaled.depth, scaled.depth)
    counts = np.bincount(scaled.depth, minlength=len(channels.layers))[scaled.depth]
    x = scaled.depth + 1 + 0.7 * ((np.arange(len(first)) - first + 0.5) / counts - 0.5)
    _scatter_states(top, scaled, x, np.maximum(scaled.gamma, _FLOOR))
    top.axhline(channels.threshold, color=INK, linewidth=0.9, linestyle='--', gid='threshold')
    top.set_yscale('log')
    top.set(ylabel=f'|γ| (dashed: {channels.threshold:g})')
    bottom.axhline(0, color=GREY, linewidth=0.8)
    _scatter_states(bottom, scaled, x, scaled.bias)
    bottom.set(ylabel='effective bias b')
    _number_layers(bottom, len(channels.layers))
    legend(top)
    return figure


def draw_l1_norms(channels: Channels) -> Figure | None:
    """Histogram of the filters' L1 norms over their layer's median, which puts layers of any
    size on one axis (psBN paper figure 1a, there of one layer)."""
    channels = channels.where_finite('l1')
    if channels is None:
        return None
    limit = float(np.quantile(channels.l1, 0.995)) * 1.05
    figure, axes = _histogram(channels, np.minimum(channels.l1, limit), np.linspace(0, limit, 61))
    axes.set(xlabel="‖w‖₁ of a filter / its layer's median", ylabel='filters')
    return figure


def draw_zero_shares(channels: Channels) -> Figure | None:
    """Histogram of Pr[a = 0] by channel (Frankle et al. section 5)."""
    channels = channels.where_finite('zero_share')
    if channels is None:
        return None
    figure, axes = _histogram(channels, channels.zero_share, np.linspace(0, 1, 51))
    axes.axvline(_MOSTLY, color=INK, linewidth=0.9, linestyle='--')
    axes.set(xlabel='Pr[a = 0] (dashed: 99 %)')
    return figure


def draw_universality(channels: Channels) -> Figure | None:
    """Histogram of universality by channel (Mehta et al. section 3)."""
    channels = channels.where_finite('universality')
    if channels is None:
        return None
    figure, axes = _histogram(channels, channels.universality, np.linspace(0, 1, 51))
    axes.set(xlabel='universality: share of samples that excite the channel')
    return figure


def draw_depth(channels: Channels) -> Figure | None:
    """Share of collapsed, dead and mostly silent channels by layer."""
    layers = len(channels.layers)
    scaled, seen = np.isfinite(channels.gamma), np.isfinite(channels.zero_share)
    figure, ((axes,),) = new_figure()
    bars = (  # from the widest to the one in front of it
        ('mostly zero', GREY, channels.zero_share > _MOSTLY, seen, 0.9),
        ('dead', ORANGE, channels.dead, seen, 0.6),
        ('collapsed', RED, channels.collapsed, scaled, 0.3),
    )
    highest = 0.0
    for label, colour, has, known, width in bars:
        total = np.bincount(channels.depth[known], minlength=layers)
        count = np.bincount(channels.depth[known & has], minlength=layers)
        if not total.any():
            continue
        share = 100 * count / np.maximum(total, 1)
        highest = max(highest, share.max())
        style = dict(color=colour, label=label, gid=label)
        if layers <= _BARS:
            axes.bar(np.arange(1, layers + 1), share, width, **style)
        else:  # one shape
            axes.stairs(share, np.arange(layers + 1) + 0.5, fill=True, **style)
    if not highest:
        return None
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))
    _number_layers(axes, layers)
    legend(axes)
    return figure


def _number_layers(axes: Axes, count: int) -> None:
    axes.set_xlabel('layer, as numbered in the table')
    axes.set_xlim(0.4, count + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _states(channels: Channels) -> dict[str, np.ndarray]:
    """Every channel in one of three states; those that there are."""
    collapsed = channels.collapsed
    dead = channels.dead & ~collapsed
    states = dict(other=~(collapsed | dead), dead=dead, collapsed=collapsed)
    return {state: has for state, has in states.items() if has.any()}


def _scatter_states(axes: Axes, channels: Channels, x: np.ndarray, y: np.ndarray) -> None:
    for state, has in _states(channels).items():
        size, label = 6 if state == 'other' else 14, f'{state} ({has.sum():,})'
        scatter(axes, x[has], y[has], colour=_STATES[state], label=label, gid=state, size=size)


def _histogram(channels: Channels, values: np.ndarray, edges: np.ndarray) -> tuple[Figure, Axes]:
    """Stacked by state."""
    figure, ((axes,),) = new_figure()
    states = _states(channels)
    axes.hist(
        [values[has] for has in states.values()],
        bins=edges,
        stacked=True,
        color=[_STATES[name] for name in states],
        label=[f'{name} ({has.sum():,})' for name, has in states.items()],
    )
    axes.set(ylabel='channels', xlim=(edges[0], edges[-1]))
    legend(axes)
    return figure, axes


def draw_rounds(rounds: tuple[Sequence[Mapping], Sequence[float | None], str | None]) -> Figure:
    """Collapsed and dead channels, FLOPs at stake and the score by checkpoint (psBN paper
    figure 3).

    Args:
        rounds: totals and score of each checkpoint, and what is scored.
    """
    totals, scores, metric = rounds
    has_scores = any(score is not None for score in scores)
    figure, grid = new_figure(1 + has_scores, 1, height=5.0 if has_scores else 3.3, sharex=True)
    x = np.arange(1, len(totals) + 1)
    top = grid[0, 0]
    first = next(key for key in totals[0] if key.startswith('collapsed_'))
    for key, of, label, colour in (
        (first, 'scaled_channels', 'collapsed filters', RED),
        ('dead', 'observed_channels', 'dead channels', INK),
        ('mostly_zero', 'observed_channels', 'mostly zero', ORANGE),
        ('macs_at_stake', 'macs', 'FLOPs at stake', GREEN),
    ):
        share = [100 * t[key] / t[of] if t[key] is not None and t[of] else np.nan for t in totals]
        if np.isfinite(share).any():
            top.plot(x, share, color=colour, marker='o', markersize=4, label=label, gid=key)
    top.set_ylim(0, max(top.get_ylim()[1], 1))
    top.yaxis.set_major_formatter(PercentFormatter(decimals=None))
    legend(top)
    if has_scores:
        values = [np.nan if score is None else score for score in scores]
        grid[1, 0].plot(x, values, color=BLUE, marker='o', markersize=4, gid='score')
        grid[1, 0].set_ylabel(metric)
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel('checkpoint, in the order given')
    return figure


def draw_paths(paths: Paths | None) -> Figure | None:
    """Trajectories in the (|gamma|, b) plane from checkpoint to checkpoint, of the channels that
    are collapsed or pruned in the end and of some of the others (psBN paper figure 1b)."""
    if paths is None:
        return None
    order = np.argsort(~paths.lost, kind='stable')[:_MOST_PATHS]
    drawn, lost = paths.points[order], paths.lost[order]
    figure, ((axes,),) = new_figure(height=3.8)
    right, bottom = 1.06 * np.nanmax(drawn[..., 0]), np.nanmin(drawn[..., 1])
    _shade_region(axes, right, bottom)
    for label, colour, has in (('left alive', BLUE, ~lost), ('collapsed or pruned', RED, lost)):
        for number, path in enumerate(drawn[has]):
            name = f'{label} ({has.sum():,} drawn)' if number == 0 else None
            axes.plot(*path.T, color=colour, linewidth=0.8, alpha=0.55, label=name, gid=label)
            last = path[np.isfinite(path[:, 0])][-1:]
            axes.plot(*last.T, color=colour, marker='o', markersize=2.6)
    margin = 0.05 * (np.nanmax(drawn[..., 1]) - bottom + 1e-3)
    axes.set(xlabel='|γ|', ylabel='effective bias b (dot: the last checkpoint)')
    axes.set(xlim=(-0.02 * right, right), ylim=(bottom - margin, None))
    legend(axes)
    return figure


def draw_drops(drops: Sequence[Drop]) -> Figure:
    """Theorem 1 against what happened, by layer."""
    figure, ((axes,),) = new_figure()
    x, y = [drop.predicted for drop in drops], [drop.observed for drop in drops]
    label = 'a layer between two checkpoints'
    scatter(axes, x, y, colour=BLUE, label=label, gid='drops', size=20)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle='--', label='as predicted')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter('{x:.2g}')
    axes.set(xlabel='change of Φ by Theorem 1', ylabel='observed change of Φ')
    legend(axes)
    return figure


_DRAW = dict(
    depth=draw_depth,
    plane=draw_plane,
    scales=draw_scales,
    l1=draw_l1_norms,
    zero_share=draw_zero_shares,
    universality=draw_universality,
    rounds=draw_rounds,
    paths=draw_paths,
    drops=draw_drops,
)
