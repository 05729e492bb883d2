"""The summary of a snapshot in plain words."""

from collections.abc import Mapping
from typing import Any

from .numbers import NEVER_REACHED, collapsed_column
from .snapshot import Settings, Snapshot

# A score that moves by less, of itself, is the same: the psBN paper's 0.03 points of 90.
_NO_CHANGE = 5e-4


def share(part: float, whole: float) -> str:
    return f'{part / whole:.1%}' if whole else '0 %'


def collapsed_words(totals: Mapping[str, Any], settings: Settings) -> str:
    """What has collapsed."""
    channels = totals['scaled_channels']
    if not channels:
        return (
            'This model has no normalisation layer with a scale γ, so no filter can be told to '
            'have collapsed by its scale; dead channels show with data.'
        )
    threshold = settings.thresholds[0]
    count = totals[collapsed_column(threshold)]
    if totals['median_gamma'] is None:
        return f'None of the {channels:,} scales γ is finite: this model is broken.'
    words = (
        f'{count:,} of {channels:,} filters ({share(count, channels)}) have collapsed: '
        f'|γ| < {threshold:g}, where the median is {totals["median_gamma"]:.3g}.'
        if count
        else f'No filter of {channels:,} has collapsed: the scales |γ| are all '
        f'{threshold:g} or more.'
    )
    if totals['not_finite']:
        words += (
            f' {totals["not_finite"]:,} scales are NaN or infinite, which is a failed training '
            'and not a collapse; they are counted as neither.'
        )
    return words


def dead_words(totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings) -> str:
    """What is dead."""
    if not snapshot.samples:
        if snapshot.untraced:
            return (
                'Which channels are dead is not known: the model was not traced '
                f'({snapshot.untraced}).'
            )
        return (
            f'Without data it is not known which channels are dead; '
            f'{totals["hardly_active"] or 0:,} would pass a ReLU right behind them on less than '
            '1 % of normally distributed inputs. Run it with --data.'
        )
    dead, channels = totals['dead'], totals['observed_channels']
    words = (
        f'{dead:,} of {channels:,} observed channels ({share(dead, channels)}) are dead: 0 at '
        f'every position of all {snapshot.samples:,} samples.'
    )
    collapsed = totals[collapsed_column(settings.thresholds[0])]
    if collapsed:
        both = totals['dead_of_collapsed']
        words += (
            f' Of the {collapsed:,} collapsed filters '
            + ('all are dead' if both == collapsed else f'{both:,} are dead')
            + (
                f'; {dead - both:,} dead channels have a scale that looks alive.'
                if dead > both
                else '.'
            )
        )
    elif dead:
        words += ' None of them shows in γ: only activations tell.'
    silent = totals['mostly_zero'] - dead
    if silent:
        words += f' {silent:,} more are 0 on over 99 % of the positions.'
    missing = [
        name
        for name, channels in snapshot.layers.items()
        if channels.activations is not None and not channels.activations.values.any()
    ]
    if missing:
        words += f' {len(missing):,} layers were {NEVER_REACHED}, {missing[0]} among them.'
    return words


def cost_words(totals: Mapping[str, Any], snapshot: Snapshot) -> str:
    """What it costs."""
    if snapshot.untraced:
        return (
            f'What they cost in FLOPs is not known: the model was not traced ({snapshot.untraced}).'
        )
    what = 'dead' if snapshot.samples else 'collapsed'
    size = '×'.join(map(str, snapshot.input_shape[1:]))
    whole = f'{totals["macs"] / 1e6:,.1f} M multiply-accumulates of a {size} input'
    if not totals['macs_at_stake']:
        return f'Nothing is wasted: no {what} channel costs any of the {whole}.'
    words = (
        f'The {what} channels take {share(totals["macs_at_stake"], totals["macs"])} of the {whole}.'
    )
    if not totals['removable']:
        return words + ' None of them can be cut out without changing others that live.'
    verb = 'can be removed' if snapshot.samples else 'could be removed if they are dead too'
    return words + (
        f' {totals["removable"]:,} of them {verb}, which saves '
        f'{totals["macs_removable"] / totals["macs"]:.2%}.'
    )


def score_words(snapshot: Snapshot, settings: Settings) -> str | None:
    """Whether it matters; None where nothing was scored."""
    if not snapshot.scores:
        return None
    metric, value = next(iter(snapshot.scores.items()))
    parts = []
    for threshold in settings.thresholds:
        clamped = snapshot.clamped_scores[threshold][metric]
        change = 'as before' if clamped == value else f'{clamped - value:+.4g}'
        parts.append(f'|γ| < {threshold:g}: {clamped:.4g} ({change})')
    first = snapshot.clamped_scores[settings.thresholds[0]][metric]
    verdict = (
        'They do not matter' if abs(first - value) <= _NO_CHANGE * abs(value) else 'They matter'
    )
    return (
        f'{verdict} to {metric}, which is {value:.4g}. With γ set to 0 where '
        + '; '.join(parts)
        + '.'
    )


def advice(
    totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings, prune_command: str | None
) -> str:
    """What to do."""
    collapsed = totals[collapsed_column(settings.thresholds[0])]
    idle = (totals['dead'] or 0) if snapshot.samples else collapsed
    if not idle:
        if snapshot.samples:
            return 'Nothing to do: every channel speaks.'
        return 'Nothing to do as far as the weights tell; with --data activations tell more.'
    removable = totals['removable']
    steps = []
    if removable and prune_command:
        steps.append(f'To make the model smaller and keep its function: {prune_command}.')
    elif removable:
        steps.append(
            'To make the model smaller and keep its function: '
            'mmpsbn.pruning.prune_dead_channels on it and some data.'
        )
    steps.append(
        'To keep these filters in the next training: psBN in place of BN '
        '(mmpsbn.layers.convert_to_psbn, or norm_cfg=dict(type="psBN")), with weight decay on its '
        'bias; a smaller learning rate or, under Adam, AdamW loses fewer too.'
    )
    return ' '.join(steps)
