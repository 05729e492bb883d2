"""The pictures of one checkpoint: its channels in, a matplotlib ``Figure`` out.

Each ``draw_*`` returns None where there is nothing to draw: no scales, no writers, or no data.
"""

from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .channels import Channels, channels_of
from .page import Picture
from .snapshot import Settings, Snapshot
from .style import BLUE, GREY, INK, ORANGE, RED, legend, new_figure, scatter

# The non-trainable region: a ReLU right behind passes less than this of a normal input.
REGION = 0.01
_FLOOR = 1e-6  # scales below it are drawn there
_MOSTLY = 0.99
_BARS = 120  # more of them are drawn without gaps
_STATES = (('other', BLUE), ('dead', ORANGE), ('collapsed', RED))


def pictures_of(snapshot: Snapshot, settings: Settings) -> list[Picture]:
    """The pictures of one checkpoint that there is something to draw for."""
    if not snapshot.layers:
        return []
    channels = channels_of(snapshot, settings)
    candidates = (
        (
            'depth',
            'Sparsity by depth',
            'Share of the channels of each layer; the numbers are those of the table.',
            draw_depth(channels),
        ),
        (
            'plane',
            'Scale and bias of every channel',
            'Shaded: where a ReLU right behind passes less than 1 % of a normally distributed '
            'input, so that hardly any gradient comes back and weight decay alone moves the '
            'channel, straight to the origin. (psBN paper, figure 1b)',
            draw_plane(channels),
        ),
        (
            'scales',
            'Scales and biases by layer',
            'One dot a channel, side by side within a layer; |γ| below 1e-6 is drawn there.',
            draw_scales(channels, settings.thresholds),
        ),
        (
            'l1',
            'L1 norms of the filters',
            'A separate peak at 0 is the mark of collapse. (psBN paper, figure 1a; here of all '
            'layers, each over its own median)',
            draw_l1_norms(channels),
        ),
        (
            'zero_share',
            'How often a channel is 0',
            'Share of positions and samples at which the activation is exactly 0. (Frankle et '
            'al., section 5)',
            draw_zero_shares(channels),
        ),
        (
            'universality',
            'Universality',
            'Left: channels that few samples excite. Right: channels that all do. (Mehta et al., '
            'section 3)',
            draw_universality(channels),
        ),
    )
    return [Picture(*candidate) for candidate in candidates if candidate[-1] is not None]


def draw_plane(channels: Channels) -> Figure | None:
    """The (|gamma|, b) plane with the non-trainable region Phi(b / |gamma|) < 1 % shaded
    (psBN paper figure 1b and equation 2)."""
    channels = channels.select(np.isfinite(channels.gamma) & np.isfinite(channels.bias))
    if not len(channels.gamma):
        return None
    figure, ((axes,),) = new_figure()
    right = 1.06 * max(float(channels.gamma.max()), 1e-3)
    low, high = float(channels.bias.min()), float(channels.bias.max())
    margin = 0.06 * max(high - low, 0.1)  # of a net just built all are 0
    shade_region(axes, right, min(low, 0) - margin)
    _scatter_states(axes, channels, channels.gamma, channels.bias)
    axes.set(xlim=(-0.02 * right, right), ylim=(min(low, 0) - margin, max(high, 0) + margin))
    axes.set(xlabel='|γ|', ylabel='effective bias b')
    legend(axes)
    return figure


def shade_region(axes: Axes, right: float, bottom: float) -> None:
    """b < z |gamma| with Phi(z) = 1 %."""
    slope = NormalDist().inv_cdf(REGION)
    edge = np.array([0, right])
    axes.fill_between(
        edge,
        slope * edge,
        min(bottom, 1.1 * slope * right),
        color=GREY,
        alpha=0.22,
        linewidth=0,
        label='non-trainable',
        gid='region',
    )
    axes.axhline(0, color=GREY, linewidth=0.8)


def draw_scales(channels: Channels, thresholds: tuple[float, ...]) -> Figure | None:
    """|gamma| and b of every channel by layer, the first threshold as a line."""
    scaled = channels.select(np.isfinite(channels.gamma))
    if not len(scaled.gamma):
        return None
    figure, ((top,), (bottom,)) = new_figure(2, 1, height=4.9, sharex=True)
    # side by side within the layer, in the order of the channels
    first = np.searchsorted(scaled.depth, scaled.depth)
    counts = np.bincount(scaled.depth, minlength=len(channels.layers))[scaled.depth]
    x = scaled.depth + 1 + 0.7 * ((np.arange(len(first)) - first + 0.5) / counts - 0.5)
    _scatter_states(top, scaled, x, np.maximum(scaled.gamma, _FLOOR))
    top.axhline(thresholds[0], color=INK, linewidth=0.9, linestyle='--', gid='threshold')
    top.set_yscale('log')
    top.set(ylabel=f'|γ| (dashed: {thresholds[0]:g})')
    bottom.axhline(0, color=GREY, linewidth=0.8)
    _scatter_states(bottom, scaled, x, scaled.bias)
    bottom.set(ylabel='effective bias b')
    _number_layers(bottom, len(channels.layers))
    legend(top)
    return figure


def draw_l1_norms(channels: Channels) -> Figure | None:
    """Histogram of the filters' L1 norms over their layer's median, which puts layers of any
    size on one axis (psBN paper figure 1a, there of one layer)."""
    channels = channels.select(np.isfinite(channels.l1))
    if not len(channels.l1):
        return None
    figure, ((axes,),) = new_figure()
    limit = float(np.quantile(channels.l1, 0.995)) * 1.05
    _histogram_states(axes, channels, np.minimum(channels.l1, limit), np.linspace(0, limit, 61))
    axes.set(xlabel="‖w‖₁ of a filter / its layer's median", ylabel='filters', xlim=(0, limit))
    legend(axes)
    return figure


def draw_zero_shares(channels: Channels) -> Figure | None:
    """Histogram of Pr[a = 0] by channel (Frankle et al. section 5)."""
    channels = channels.select(np.isfinite(channels.zero_share))
    if not len(channels.zero_share):
        return None
    figure, ((axes,),) = new_figure()
    _histogram_states(axes, channels, channels.zero_share, np.linspace(0, 1, 51))
    axes.axvline(_MOSTLY, color=INK, linewidth=0.9, linestyle='--')
    axes.set(xlabel='Pr[a = 0] (dashed: 99 %)', ylabel='channels', xlim=(0, 1))
    legend(axes)
    return figure


def draw_universality(channels: Channels) -> Figure | None:
    """Histogram of universality by channel (Mehta et al. section 3)."""
    channels = channels.select(np.isfinite(channels.universality))
    if not len(channels.universality):
        return None
    figure, ((axes,),) = new_figure()
    _histogram_states(axes, channels, channels.universality, np.linspace(0, 1, 51))
    axes.set(
        xlabel='universality: share of samples that excite the channel',
        ylabel='channels',
        xlim=(0, 1),
    )
    legend(axes)
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
    """Every channel in one of three states."""
    collapsed = channels.collapsed
    dead = channels.dead & ~collapsed
    return dict(other=~(collapsed | dead), dead=dead, collapsed=collapsed)


def _scatter_states(axes: Axes, channels: Channels, x: np.ndarray, y: np.ndarray) -> None:
    states = _states(channels)
    for state, colour in _STATES:
        has = states[state]
        if has.any():
            size = 6 if state == 'other' else 14
            label = f'{state} ({has.sum():,})'
            scatter(axes, x[has], y[has], colour=colour, label=label, gid=state, size=size)


def _histogram_states(
    axes: Axes, channels: Channels, values: np.ndarray, edges: np.ndarray
) -> None:
    """Stacked by state."""
    states = {name: has for name, has in _states(channels).items() if has.any()}
    colours = dict(_STATES)
    axes.hist(
        [values[has] for has in states.values()],
        bins=edges,
        stacked=True,
        color=[colours[name] for name in states],
        label=[f'{name} ({has.sum():,})' for name, has in states.items()],
    )
