"""The pictures of several checkpoints of one run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .numbers import collapsed_masks
from .pictures import shade_region
from .snapshot import Settings, Snapshot
from .style import BLUE, GREEN, INK, ORANGE, RED, legend, new_figure

_MOST_PATHS = 400  # more of them are a smear; those that collapse are drawn first


def paths_of(snapshots: Sequence[Snapshot]) -> dict[tuple[str, int], np.ndarray]:
    """(layer, channel of the unpruned model) -> |gamma| and b at each checkpoint, shape
    (checkpoints, 2); NaN where it has been pruned, inf where either is not finite."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for step, snapshot in enumerate(snapshots):
        for name, channels in snapshot.layers.items():
            if channels.gamma is None:
                continue
            kept = snapshot.kept.get(name, range(len(channels.gamma)))
            pairs = zip(channels.gamma.abs().tolist(), channels.bias.tolist())
            for channel, pair in zip(kept, pairs):
                path = found.setdefault((name, channel), np.full((len(snapshots), 2), np.nan))
                path[step] = pair if np.isfinite(pair).all() else np.inf
    return found


def draw_paths(snapshots: Sequence[Snapshot], settings: Settings) -> Figure | None:
    """Trajectories in the (|gamma|, b) plane from checkpoint to checkpoint, of the channels that
    are collapsed or pruned in the end and of some of the others (psBN paper figure 1b)."""
    # a channel that was NaN or infinite is no path; one that was pruned has an end
    found = {key: path for key, path in paths_of(snapshots).items() if not np.isinf(path).any()}
    if not found:
        return None
    paths = list(found.values())
    alive = _alive(snapshots[-1], settings)
    collapsed = np.array([key not in alive for key in found])
    order = np.argsort(~collapsed, kind='stable')[:_MOST_PATHS]
    figure, ((axes,),) = new_figure(height=3.8)
    drawn = np.stack([paths[i] for i in order])
    right, bottom = 1.06 * np.nanmax(drawn[..., 0]), np.nanmin(drawn[..., 1])
    shade_region(axes, right, bottom)
    for label, colour, has in (
        ('left alive', BLUE, ~collapsed[order]),
        ('collapsed or pruned', RED, collapsed[order]),
    ):
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


def _alive(snapshot: Snapshot, settings: Settings) -> set[tuple[str, int]]:
    """Layers and their channels, as in the unpruned model, that have neither collapsed nor gone."""
    return {
        (name, channel)
        for name, mask in collapsed_masks(snapshot, settings.thresholds[0]).items()
        for channel, small in zip(snapshot.kept.get(name, range(len(mask))), mask.tolist())
        if not small
    }


def draw_rounds(
    names: Sequence[str], totals: Sequence[dict], scores: Sequence[float | None], metric: str | None
) -> Figure:
    """Collapsed and dead channels, FLOPs at stake and the score by checkpoint (psBN paper
    figure 3)."""
    has_scores = any(score is not None for score in scores)
    figure, grid = new_figure(1 + has_scores, 1, height=5.0 if has_scores else 3.3, sharex=True)
    x = np.arange(1, len(names) + 1)
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
