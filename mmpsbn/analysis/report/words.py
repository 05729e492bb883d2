"""What the numbers of a snapshot mean, in sentences. Code stands between backticks."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..view import Finding
from .numbers import NEVER_REACHED, collapsed_column, small_count, unreached
from .snapshot import Snapshot

# A score that moves by less, of itself, is the same: the psBN paper's 0.03 points of 90.
_NO_CHANGE = 5e-4
_EXACT = 1e-12  # the papers call a channel that stays below it 0


def findings_of(
    snapshot: Snapshot, totals: Mapping[str, Any], *, prune_command: str | None
) -> tuple[Finding, ...]:
    """The summary. ``prune_command`` is what cuts out the dead channels."""
    findings = [
        Finding('Collapsed', collapsed_words(snapshot, totals)),
        Finding('Dead', dead_words(snapshot, totals)),
        Finding('Cost', cost_words(snapshot, totals)),
    ]
    if snapshot.scores:
        findings.append(Finding('Does it matter?', score_words(snapshot, totals)))
    return (*findings, *advice(snapshot, totals, prune_command))


def share(part: float, whole: float) -> str:
    return f'{part / whole:.1%}' if whole else '0 %'


def _counted(count: int, one: str, several: str) -> str:
    """``1 filter``, ``2 filters``."""
    return f'{count:,} {one if count == 1 else several}'


def _collapsed_count(snapshot: Snapshot, totals: Mapping[str, Any]) -> int:
    return totals[collapsed_column(snapshot.threshold)]


def collapsed_words(snapshot: Snapshot, totals: Mapping[str, Any]) -> str:
    channels = totals['scaled_channels']
    if not channels:
        return (
            'This model has no normalisation layer with a scale γ, so no filter can be told to '
            'have collapsed by its scale; dead channels show with data.'
        )
    count = _collapsed_count(snapshot, totals)
    if totals['median_gamma'] is None:
        return f'None of the {channels:,} scales γ is finite: this model is broken.'
    median = f'the median |γ| is {totals["median_gamma"]:.3g}'
    if count:
        words = (
            f'{count:,} of {channels:,} filters ({share(count, channels)}) '
            f'{"has" if count == 1 else "have"} collapsed: '
            f'|γ| < {snapshot.threshold:g}, where {median}.'
        )
    else:
        words = f'No filter of {channels:,} has collapsed (|γ| < {snapshot.threshold:g}); {median}.'
    if totals['not_grown']:
        more = _counted(totals['not_grown'], 'more is', 'more are')
        words += (
            f' {more} below that in layers whose γ began at 0: not grown yet, as SparsityHook has '
            'written down.'
        )
    if totals['not_finite']:
        scales = _counted(totals['not_finite'], 'scale is', 'scales are')
        words += (
            f' {scales} NaN or infinite, the mark of a failed training and not of a collapse, '
            'and counted as alive.'
        )
    return words


def dead_words(snapshot: Snapshot, totals: Mapping[str, Any]) -> str:
    if snapshot.untraced:
        return (
            f'Which channels are dead is not known: the model was not traced ({snapshot.untraced}).'
        )
    if not snapshot.samples:
        return (
            f'Without data it is not known which channels are dead; '
            f'{totals["hardly_active"] or 0:,} would pass a ReLU right behind them on less than '
            '1 % of normally distributed inputs. Run it with `--data`.'
        )
    dead, channels = totals['dead'], totals['observed_channels']
    eps = snapshot.settings.eps
    dead_is = '0' if eps <= _EXACT else f'|a| ≤ {eps:g}'
    all_of_them = f'all {snapshot.samples:,} samples' if snapshot.samples > 1 else 'the one sample'
    words = (
        f'{dead:,} of {channels:,} observed channels ({share(dead, channels)}) '
        f'{"is" if dead == 1 else "are"} dead: {dead_is} at every position of {all_of_them}.'
    )
    if totals['not_finite_activations']:
        broken = _counted(totals['not_finite_activations'], 'channel was', 'channels were')
        words += f' {broken} NaN or infinite somewhere, and counted as alive.'
    collapsed = totals['observed_collapsed']
    if collapsed:
        both = totals['dead_of_collapsed']
        which = {collapsed: 'all', 0: 'none'}.get(both, f'{both:,}')
        filters = _counted(collapsed, 'collapsed filter', 'collapsed filters')
        whole = collapsed == _collapsed_count(snapshot, totals)
        words += f' Dead among the {filters}{"" if whole else " that were observed"}: {which}.'
    if totals['dead_above']:
        others = _counted(
            totals['dead_above'], 'dead channel has a scale', 'dead channels have scales'
        )
        words += f' {others} above that threshold: only activations tell.'
    if totals['silent']:
        more = _counted(totals['silent'], 'more channel is', 'more channels are')
        words += f' {more} 0 on over 99 % of the positions.'
    missing = [name for name, c in snapshot.layers.items() if unreached(c)]
    if missing:
        several = f', {missing[0]} first' if len(missing) > 1 else f', {missing[0]}'
        words += f' {_counted(len(missing), "layer was", "layers were")} {NEVER_REACHED}{several}.'
    return words


def cost_words(snapshot: Snapshot, totals: Mapping[str, Any]) -> str:
    if snapshot.untraced:
        return (
            f'What they cost in FLOPs is not known: the model was not traced ({snapshot.untraced}).'
        )
    what = 'dead' if snapshot.samples else 'collapsed'
    size = '×'.join(map(str, snapshot.input_shape[1:]))
    macs = totals['macs']
    amount = f'{macs / 1e6:,.1f} M' if macs >= 1e6 else f'{macs:,}'
    whole = f'{amount} multiply-accumulates of a {size} input'
    if not totals['macs_at_stake']:
        return f'Nothing is wasted: no {what} channel costs any of the {whole}.'
    words = f'The {what} channels take {share(totals["macs_at_stake"], macs)} of the {whole}.'
    if not totals['removable']:
        return words + ' None of them can be cut out without changing others that live.'
    verb = 'can be removed' if snapshot.samples else 'could be removed if they are dead too'
    idle = totals['dead'] if snapshot.samples else _collapsed_count(snapshot, totals)
    words += (
        f' {totals["removable"]:,} of them {verb}, which saves '
        f'{totals["macs_removable"] / macs:.2%}'
    )
    if totals['removable'] == idle:
        return words + '.'
    return words + '; the others belong to channels that cannot be cut or that live elsewhere.'


def score_words(snapshot: Snapshot, totals: Mapping[str, Any]) -> str:
    """Whether it matters to the first score."""
    metric, value = next(iter(snapshot.scores.items()))
    clamped = {t: scores[metric] for t, scores in snapshot.clamped_scores.items()}
    parts = []
    for threshold in snapshot.settings.thresholds:
        count, score = small_count(snapshot, threshold), clamped[threshold]
        if count:
            change = 'no change' if score == value else f'{score - value:+.2g}'
            parts.append(f'{score:.4g} ({change}) for the {count:,} below {threshold:g}')
    first = clamped[snapshot.threshold]
    which = 'filters below the first threshold' if totals['not_grown'] else 'collapsed filters'
    if not small_count(snapshot, snapshot.threshold):
        verdict = f'{metric} is {value:.4g}'
    elif math.isnan(first - value):
        verdict = f'Nothing can be said of {metric}, which is {value:.4g}'
    elif abs(first - value) <= _NO_CHANGE * abs(value):
        verdict = f'The {which} do not matter to {metric}, which is {value:.4g}'
    else:
        verdict = f'The {which} matter to {metric}, which is {value:.4g}'
    return f'{verdict}.' + (f' With scales set to 0 it is {"; ".join(parts)}.' if parts else '')


def advice(
    snapshot: Snapshot, totals: Mapping[str, Any], prune_command: str | None
) -> Iterator[Finding]:
    def step(words: str, command: str | None = None) -> Finding:
        return Finding('What to do', words, command)

    collapsed = _collapsed_count(snapshot, totals)
    if totals['not_finite'] or totals['not_finite_activations']:
        yield step('Find where the NaN comes from first; an earlier checkpoint may still be good.')
        return
    if not (collapsed or totals['dead']):
        by_weights = '' if snapshot.samples else ' as far as the weights tell'
        more = (
            '' if snapshot.samples or snapshot.untraced else '; with `--data` activations tell more'
        )
        yield step(f'Nothing to do{by_weights}{more}.')
        return
    if totals['removable'] and snapshot.samples:
        smaller = 'To make the model smaller and keep its function'
        if prune_command is None:
            yield step(f'{smaller}: `mmpsbn.pruning.prune_dead_channels(model, batches)`.')
        else:
            yield step(f'{smaller}:', prune_command)
    psbn = (
        'weight decay on the bias of psBN, which brings them back the stronger it is'
        if snapshot.has_psbn
        else 'psBN in place of BN (`mmpsbn.layers.convert_to_psbn`, or '
        '`norm_cfg=dict(type="psBN")`), with weight decay on its bias'
    )
    yield step(
        f'To keep these filters in the next training: {psbn}; a smaller learning rate or, under '
        'Adam, AdamW loses fewer too.'
    )
