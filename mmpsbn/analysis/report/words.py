"""The summary of a snapshot in plain words."""

import math
from collections.abc import Mapping
from typing import Any

from .numbers import NEVER_REACHED, collapsed_column, small_count, unreached
from .snapshot import Settings, Snapshot

# A score that moves by less, of itself, is the same: the psBN paper's 0.03 points of 90.
_NO_CHANGE = 5e-4
_EXACT = 1e-12  # the papers call a channel that stays below it 0


def share(part: float, whole: float) -> str:
    return f'{part / whole:.1%}' if whole else '0 %'


def counted(count: int, one: str, several: str) -> str:
    """``1 filter``, ``2 filters``."""
    return f'{count:,} {one if count == 1 else several}'


def collapsed_count(totals: Mapping[str, Any], settings: Settings) -> int:
    """Filters that have collapsed, by the first threshold."""
    return totals[collapsed_column(settings.thresholds[0])]


def _collapsed(totals: Mapping[str, Any]) -> str:
    """What is said of those: nobody knows of some of them whether they ever grew."""
    return 'collapsed or never grown' if totals['perhaps_not_grown'] else 'collapsed'


def collapsed_words(totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings) -> str:
    """What has collapsed."""
    channels = totals['scaled_channels']
    if not channels:
        return (
            'This model has no normalisation layer with a scale γ, so no filter can be told to '
            'have collapsed by its scale; dead channels show with data.'
        )
    threshold = settings.thresholds[0]
    count = collapsed_count(totals, settings)
    if totals['median_gamma'] is None:
        return f'None of the {channels:,} scales γ is finite: this model is broken.'
    median = f'the median |γ| is {totals["median_gamma"]:.3g}'
    if count:
        verb = 'has' if count == 1 else 'have'
        words = (
            f'{count:,} of {channels:,} filters ({share(count, channels)}) {verb} '
            f'{_collapsed(totals)}: |γ| < {threshold:g}, where {median}.'
        )
    else:
        words = f'No filter of {channels:,} has collapsed (|γ| < {threshold:g}); {median}.'
    if totals['perhaps_not_grown']:
        some = counted(totals['perhaps_not_grown'], 'of them is', 'of them are')
        words += (
            f' {some} in layers whose γ begins at 0: whether they ever grew, one checkpoint '
            'cannot tell.'
        )
    if totals['not_grown']:
        more = counted(totals['not_grown'], 'more is', 'more are')
        words += f' {more} below that in layers whose γ begins at 0: not grown yet, '
        words += (
            'as SparsityHook has written down.'
            if snapshot.growth_from == 'record'
            else 'unless grown and fallen again before the first of these checkpoints or between '
            'two of them.'
        )
    if totals['not_finite']:
        scales = counted(totals['not_finite'], 'scale is', 'scales are')
        words += (
            f' {scales} NaN or infinite, the mark of a failed training and not of a collapse, '
            'and counted as alive.'
        )
    return words


def dead_words(totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings) -> str:
    """What is dead."""
    if snapshot.untraced:
        return (
            f'Which channels are dead is not known: the model was not traced ({snapshot.untraced}).'
        )
    if not snapshot.samples:
        return (
            f'Without data it is not known which channels are dead; '
            f'{totals["hardly_active"] or 0:,} would pass a ReLU right behind them on less than '
            '1 % of normally distributed inputs. Run it with --data.'
        )
    dead, channels = totals['dead'], totals['observed_channels']
    dead_is = '0' if settings.eps <= _EXACT else f'|a| ≤ {settings.eps:g}'
    many = snapshot.samples > 1
    words = (
        f'{dead:,} of {channels:,} observed channels ({share(dead, channels)}) '
        f'{"is" if dead == 1 else "are"} dead: {dead_is} at every position of '
        f'{f"all {snapshot.samples:,} samples" if many else "the one sample"}.'
    )
    if totals['not_finite_activations']:
        broken = counted(totals['not_finite_activations'], 'channel was', 'channels were')
        words += f' {broken} NaN or infinite somewhere, and counted as alive.'
    collapsed = totals['observed_collapsed']
    if collapsed:
        both = totals['dead_of_collapsed']
        which = {collapsed: 'all', 0: 'none'}.get(both, f'{both:,}')
        what = _collapsed(totals)
        filters = counted(collapsed, f'{what} filter', f'{what} filters')
        whole = collapsed == collapsed_count(totals, settings)
        words += f' Dead among the {filters}{"" if whole else " that were observed"}: {which}.'
    if totals['dead_above']:
        others = counted(
            totals['dead_above'], 'dead channel has a scale', 'dead channels have scales'
        )
        words += f' {others} above that threshold: only activations tell.'
    if totals['silent']:
        more = counted(totals['silent'], 'more channel is', 'more channels are')
        words += f' {more} 0 on over 99 % of the positions.'
    missing = [name for name, c in snapshot.layers.items() if unreached(c)]
    if missing:
        several = f', {missing[0]} first' if len(missing) > 1 else f', {missing[0]}'
        words += f' {counted(len(missing), "layer was", "layers were")} {NEVER_REACHED}{several}.'
    return words


def cost_words(totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings) -> str:
    """What it costs."""
    if snapshot.untraced:
        return (
            f'What they cost in FLOPs is not known: the model was not traced ({snapshot.untraced}).'
        )
    what = 'dead' if snapshot.samples else _collapsed(totals)
    size = '×'.join(map(str, snapshot.input_shape[1:]))
    macs = totals['macs']
    amount = f'{macs / 1e6:,.1f} M' if macs >= 1e6 else f'{macs:,}'
    whole = f'{amount} multiply-accumulates of a {size} input'
    if not totals['macs_at_stake']:
        return f'Nothing is wasted: no {what} channel costs any of the {whole}.'
    stake = share(totals['macs_at_stake'], totals['macs'])
    words = f'The {what} channels take {stake} of the {whole}.'
    if not totals['removable']:
        return words + ' None of them can be cut out without changing others that live.'
    verb = 'can be removed' if snapshot.samples else 'could be removed if they are dead too'
    idle = totals['dead'] if snapshot.samples else collapsed_count(totals, settings)
    words += (
        f' {totals["removable"]:,} of them {verb}, which saves '
        f'{totals["macs_removable"] / totals["macs"]:.2%}'
    )
    if totals['removable'] == idle:
        return words + '.'
    return words + '; the others belong to channels that cannot be cut or that live elsewhere.'


def score_words(totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings) -> str | None:
    """Whether it matters; None where nothing was scored."""
    if not snapshot.scores:
        return None
    metric, value = next(iter(snapshot.scores.items()))
    parts = []
    for threshold in settings.thresholds:
        clamped = snapshot.clamped_scores[threshold][metric]
        change = 'no change' if clamped == value else f'{clamped - value:+.2g}'
        count = small_count(snapshot, threshold)
        if not count:
            continue
        parts.append(f'{clamped:.4g} ({change}) for the {count:,} below {threshold:g}')
    first = snapshot.clamped_scores[settings.thresholds[0]][metric]
    unlike = totals['not_grown'] or totals['perhaps_not_grown']
    which = 'filters below the first threshold' if unlike else 'collapsed filters'
    if not small_count(snapshot, settings.thresholds[0]):
        verdict = f'{metric} is {value:.4g}'
    elif math.isnan(first - value):
        verdict = f'Nothing can be said of {metric}, which is {value:.4g}'
    elif abs(first - value) <= _NO_CHANGE * abs(value):
        verdict = f'The {which} do not matter to {metric}, which is {value:.4g}'
    else:
        verdict = f'The {which} matter to {metric}, which is {value:.4g}'
    if not parts:
        return f'{verdict}. No scale is below {max(settings.thresholds):g}: none was set to 0.'
    return f'{verdict}. With scales set to 0 it is {"; ".join(parts)}.'


def advice(
    totals: Mapping[str, Any], snapshot: Snapshot, settings: Settings, prune_command: str | None
) -> str:
    """What to do."""
    collapsed = collapsed_count(totals, settings)
    idle = collapsed or totals['dead']
    if totals['not_finite'] or totals['not_finite_activations']:
        return 'Find where the NaN comes from first; an earlier checkpoint may still be good.'
    if not idle:
        if snapshot.samples:
            none = 'was seen to collapse' if totals['not_grown'] else 'has collapsed'
            return f'Nothing to do: no filter {none} and no channel that was seen is dead.'
        return 'Nothing to do as far as the weights tell; with --data activations tell more.'
    removable = totals['removable']
    steps = []
    if totals['perhaps_not_grown']:
        filters = counted(collapsed, 'filter has', 'filters have')
        steps.append(
            f'{filters} collapsed or never grown: earlier checkpoints of the run, given before '
            'this one, tell which, and so does SparsityHook in the run.'
        )
    if removable and snapshot.samples:
        tool = prune_command or 'mmpsbn.pruning.prune_dead_channels with some data'
        steps.append(f'To make the model smaller and keep its function: {tool}.')
    psbn = (
        'weight decay on the bias of psBN, which brings them back the stronger it is'
        if snapshot.has_psbn
        else 'psBN in place of BN (mmpsbn.layers.convert_to_psbn, or norm_cfg=dict(type="psBN")), '
        'with weight decay on its bias'
    )
    steps.append(
        f'To keep these filters in the next training: {psbn}; a smaller learning rate or, under '
        'Adam, AdamW loses fewer too.'
    )
    return ' '.join(steps)
