"""What was measured of a model's channels at one moment, and what that says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...pruning.measures import MEASURES, ChannelCounts

# Measures of a whole model, beside those that count channels.
FLOPS, WEIGHTS = 'flops_sparsity', 'weight_sparsity'
UNIVERSALITY, REVIVAL = 'universality', 'revival'
ALL_MEASURES = (*MEASURES, FLOPS, WEIGHTS, UNIVERSALITY, REVIVAL)
NOT_GROWN = 'not_grown'  # beside the collapsed, where layers began at 0
DATA_MEASURES = (
    *(name for name, measure in MEASURES.items() if measure.needs_data),
    UNIVERSALITY,
    REVIVAL,
)


@dataclass
class Reading:
    """What was measured at one moment.

    Attributes:
        counts: measure -> channels found, by layer.
        values: measure -> number, of those that count no channels.
    """

    counts: dict[str, ChannelCounts] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    def scalars(self, *, name: str) -> dict[str, float]:
        """Without what is unknown: JSON has no NaN. ``name``: of the hook."""
        found = {f'{measure}_fraction': c.share for measure, c in self.counts.items()}
        if 'collapsed' in self.counts:
            found['collapsed'] = self.counts['collapsed'].total[0]
        found |= {name: value for name, value in self.values.items() if not math.isnan(value)}
        prefix = f'sparsity/{name}/' if name else 'sparsity/'
        return {f'{prefix}{what}': value for what, value in found.items()}

    def summary(self, *, name: str, gamma_threshold: float, counted_size: Sequence[int]) -> str:
        """One line of the log.

        Args:
            name: of the hook.
            counted_size: of the image that FLOPs are counted on.
        """
        parts = []
        for measure, counts in self.counts.items():
            found, channels = counts.total
            text = f'{found} of {channels} filters {measure.replace("_", " ")}'
            if measure == 'collapsed':
                text += f' (|gamma| < {gamma_threshold:g})'
            parts.append(f'{text}, {counts.share:.2%}')
        for what, value in self.values.items():
            if what == NOT_GROWN:
                parts.append(f'{value} not grown yet (their gamma began at 0)')
                continue
            text = what.replace('flops', 'FLOPs').replace('_', ' ')
            if what == FLOPS:
                text += f' at {"x".join(map(str, counted_size))}'
            parts.append(f'{text} {value}' if isinstance(value, int) else f'{text} {value:.2%}')
        return f'{f"sparsity {name}".rstrip()}: {"; ".join(parts)}'
