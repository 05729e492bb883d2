"""The pictures of a report, each a matplotlib ``Figure``.

``channels`` is what :func:`.numbers.channel_table` gives. Each ``draw_*`` returns None where there
is nothing to draw: no scales, no writers, or no data.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..style import BLUE, GREY, INK, ORANGE, RED, legend, new_figure, scatter
from .snapshot import Snapshot

# The non-trainable region: a ReLU right behind passes less than this of a normal input.
_REGION = 0.01
_FLOOR = 1e-6  # scales below it are drawn there
_MOSTLY = 0.99
_MOST_PATHS = 400  # more of them are a smear; those that collapse are drawn first
_STATES = dict(other=BLUE, dead=ORANGE, collapsed=RED)


def draw_plane(channels: np.recarray) -> Figure | None:
    """The (|gamma|, b) plane with the non-trainable region Phi(b / |gamma|) < 1 % shaded
    (psBN paper figure 1b and equation 2)."""
    channels = channels[np.isfinite(channels.gamma) & np.isfinite(channels.bias)]
    if not len(channels):
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


def draw_scales(channels: np.recarray, threshold: float) -> Figure | None:
    """|gamma| and b of every channel by layer, the threshold as a line."""
    layers = _layers_of(channels)
    channels = channels[np.isfinite(channels.gamma)]
    if not len(channels):
        return None
    figure, ((top,), (bottom,)) = new_figure(2, 1, height=4.9, sharex=True)
    # side by side within the layer, in the order of the channels
    first = np.searchsorted(channels.depth, channels.depth)
    counts = np.bincount(channels.depth)[channels.depth]
    x = channels.depth + 1 + 0.7 * ((np.arange(len(first)) - first + 0.5) / counts - 0.5)
    _scatter_states(top, channels, x, np.maximum(channels.gamma, _FLOOR))
    top.axhline(threshold, color=INK, linewidth=0.9, linestyle='--', gid='threshold')
    top.set_yscale('log')
    top.set(ylabel=f'|γ| (dashed: {threshold:g})')
    bottom.axhline(0, color=GREY, linewidth=0.8)
    _scatter_states(bottom, channels, x, channels.bias)
    bottom.set(ylabel='effective bias b')
    _number_layers(bottom, layers)
    legend(top)
    return figure


def draw_l1_norms(channels: np.recarray) -> Figure | None:
    """Histogram of the filters' L1 norms over their layer's median, which puts layers of any
    size on one axis (psBN paper figure 1a, there of one layer)."""
    label = "‖w‖₁ of a filter / its layer's median"
    return _histogram(channels, 'relative_l1', label, bins=60, ylabel='filters')


def draw_zero_shares(channels: np.recarray) -> Figure | None:
    """Histogram of Pr[a = 0] by channel (Frankle et al. section 5)."""
    figure = _histogram(channels, 'zero_share', 'Pr[a = 0] (dashed: 99 %)')
    if figure is not None:
        figure.axes[0].axvline(_MOSTLY, color=INK, linewidth=0.9, linestyle='--')
    return figure


def draw_universality(channels: np.recarray) -> Figure | None:
    """Histogram of universality by channel (Mehta et al. section 3)."""
    label = 'universality: share of samples that excite the channel'
    return _histogram(channels, 'universality', label)


def draw_depth(channels: np.recarray) -> Figure | None:
    """Share of collapsed, dead and mostly silent channels by layer."""
    layers = _layers_of(channels)
    figure, ((axes,),) = new_figure()
    highest = 0.0
    for key, known_by, colour, width in (  # from the widest to the one in front of it
        ('mostly_zero', 'zero_share', GREY, 0.9),
        ('dead', 'zero_share', ORANGE, 0.6),
        ('collapsed', 'gamma', RED, 0.3),
    ):
        known = channels[np.isfinite(channels[known_by])]
        if not len(known):
            continue
        total = np.bincount(known.depth, minlength=layers)
        share = 100 * np.bincount(known.depth, known[key], layers) / np.maximum(total, 1)
        highest = max(highest, share.max())
        label = key.replace('_', ' ')
        axes.bar(np.arange(1, layers + 1), share, width, color=colour, label=label)
    if not highest:
        return None
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))
    _number_layers(axes, layers)
    legend(axes)
    return figure


def _layers_of(channels: np.recarray) -> int:
    return int(channels.depth.max(initial=-1)) + 1


def _number_layers(axes: Axes, count: int) -> None:
    axes.set_xlabel('layer, as numbered in the table')
    axes.set_xlim(0.4, count + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _states(channels: np.recarray) -> dict[str, np.ndarray]:
    """Every channel in one of three states; those that there are."""
    collapsed = channels.collapsed == 1
    dead = (channels.dead == 1) & ~collapsed
    states = dict(other=~(collapsed | dead), dead=dead, collapsed=collapsed)
    return {state: has for state, has in states.items() if has.any()}


def _scatter_states(axes: Axes, channels: np.recarray, x: np.ndarray, y: np.ndarray) -> None:
    for state, has in _states(channels).items():
        size, label = 6 if state == 'other' else 14, _label(state, has)
        scatter(axes, x[has], y[has], colour=_STATES[state], label=label, gid=state, size=size)


def _label(state: str, has: np.ndarray) -> str:
    # the report's text counts those that have collapsed as dead too
    words = 'dead, not collapsed' if state == 'dead' else state
    return f'{words} ({has.sum():,})'


def _histogram(
    channels: np.recarray, key: str, xlabel: str, *, bins: int = 50, ylabel: str = 'channels'
) -> Figure | None:
    """Stacked by state; from 0 to 1, or of norms to where nearly all are, the others at the end."""
    channels = channels[np.isfinite(channels[key])]
    if not len(channels):
        return None
    values = channels[key]
    limit = float(np.quantile(values, 0.995)) * 1.05 if key == 'relative_l1' else 1
    figure, ((axes,),) = new_figure()
    states = _states(channels)
    axes.hist(
        [np.minimum(values[has], limit) for has in states.values()],
        bins=np.linspace(0, limit, bins + 1),
        stacked=True,
        color=[_STATES[name] for name in states],
        label=[_label(name, has) for name, has in states.items()],
    )
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, limit))
    legend(axes)
    return figure


def paths_of(
    snapshots: Sequence[Snapshot], tables: Sequence[np.recarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The ways in the (|gamma|, b) plane of the K channels whose gamma and b were finite all the
    time: |gamma| and b at each checkpoint, shape (K, checkpoints, 2), NaN where the channel has
    been pruned; whether it has collapsed or been pruned in the end, shape (K,), bool."""
    found: dict[tuple[str, int], np.ndarray] = {}  # layer, channel of the unpruned model
    for step, (snapshot, table) in enumerate(zip(snapshots, tables)):
        alive = set()  # at last of the last checkpoint
        for depth, name in enumerate(snapshot.layers):
            part = table[table.depth == depth]
            kept = snapshot.kept.get(name, range(len(part)))
            for channel, gamma, bias, small in zip(kept, part.gamma, part.bias, part.collapsed):
                if np.isnan(small):  # it has no scale
                    continue
                path = found.setdefault((name, channel), np.full((len(snapshots), 2), np.nan))
                path[step] = (gamma, bias) if np.isfinite(gamma + bias) else np.inf
                if not small:
                    alive.add((name, channel))
    paths = {key: path for key, path in found.items() if not np.isinf(path).any()}
    points = np.array([*paths.values()]).reshape(-1, len(snapshots), 2)
    return points, np.array([key not in alive for key in paths], bool)


def draw_paths(points: np.ndarray, lost: np.ndarray) -> Figure | None:
    """The :func:`paths_of` the channels that are collapsed or pruned in the end and of some of
    the others (psBN paper figure 1b)."""
    if not len(points):
        return None
    order = np.argsort(~lost, kind='stable')[:_MOST_PATHS]
    drawn, lost = points[order], lost[order]
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
