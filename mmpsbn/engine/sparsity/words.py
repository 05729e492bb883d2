"""What a reading of a model's channels says: to the visualizer, and in the log."""

import math
from collections.abc import Sequence

from .channel_watch import FLOPS, NOT_GROWN, Reading


def scalars(reading: Reading, *, name: str) -> dict[str, float]:
    """Without what is unknown: JSON has no NaN. ``name``: of the hook."""
    found = {f'{measure}_fraction': c.share for measure, c in reading.counts.items()}
    if 'collapsed' in reading.counts:
        found['collapsed'] = reading.counts['collapsed'].total[0]
    found |= {name: value for name, value in reading.values.items() if not math.isnan(value)}
    prefix = f'sparsity/{name}/' if name else 'sparsity/'
    return {f'{prefix}{what}': value for what, value in found.items()}


def summary(
    reading: Reading, *, name: str, gamma_threshold: float, counted_size: Sequence[int]
) -> str:
    """One line of the log.

    Args:
        name: of the hook.
        counted_size: of the image that FLOPs are counted on.
    """
    parts = []
    for measure, counts in reading.counts.items():
        found, channels = counts.total
        text = f'{found} of {channels} filters {measure.replace("_", " ")}'
        if measure == 'collapsed':
            text += f' (|gamma| < {gamma_threshold:g})'
        parts.append(f'{text}, {counts.share:.2%}')
    for what, value in reading.values.items():
        if what == NOT_GROWN:
            parts.append(f'{value} not grown yet (their gamma began at 0)')
            continue
        text = what.replace('flops', 'FLOPs').replace('_', ' ')
        if what == FLOPS:
            text += f' at {"x".join(map(str, counted_size))}'
        parts.append(f'{text} {value}' if isinstance(value, int) else f'{text} {value:.2%}')
    return f'{f"sparsity {name}".rstrip()}: {"; ".join(parts)}'
