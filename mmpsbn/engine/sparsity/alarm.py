"""A limit on the share of channels that may go wrong."""

from collections.abc import Mapping, Sequence

from ...functional.checks import is_number
from ...pruning.measures import MEASURES, ChannelCounts

_WORST_LAYERS = 5


class Alarm:
    """Tells when the share of channels that a measure finds reaches its limit, and again each
    time it has doubled since; below the limit it is armed anew.

    Args:
        name: of the setting, for errors.
        limits: measure -> share in (0, 1]; None for no alarm.
        measures: those that are measured.

    Raises:
        ValueError: a limit out of range, or of a measure that is not chosen or counts no
            channels.
    """

    def __init__(self, name: str, limits: dict | None, measures: Sequence[str]):
        possible = [measure for measure in measures if measure in MEASURES]
        if limits is not None and not isinstance(limits, dict):
            raise ValueError(f'{name} must be a dict of {possible}, got {limits!r}')
        self.name = name
        self.limits = dict(limits or {})
        for measure, limit in self.limits.items():
            if measure not in possible:
                raise ValueError(
                    f'{name} has no {measure!r}: of the measures chosen {possible} count channels'
                )
            if not (is_number(limit) and 0 < limit <= 1):
                raise ValueError(f'{name}[{measure!r}] must be a share in (0, 1], got {limit!r}')
        self._next = dict(self.limits)

    def reached(self, counts: Mapping[str, ChannelCounts]) -> list[str]:
        """The measures whose limit is newly reached."""
        found = []
        for measure, limit in self.limits.items():
            if measure not in counts:
                continue
            share = counts[measure].share
            if share >= self._next[measure]:
                found.append(measure)
                self._next[measure] = 2 * share
            elif share < limit:
                self._next[measure] = limit
        return found

    def text(
        self,
        measure: str,
        counts: ChannelCounts,
        at_start: ChannelCounts | None,
        causes: Sequence[str],
    ) -> str:
        """What is to be said of a limit that is reached.

        Args:
            at_start: the same when training started; None where nobody looked.
        """
        found, channels = counts.total
        worst = worst_layers(counts).items()
        layers = ', '.join(f'{name} {n} of {size}' for name, (n, size) in worst)
        started = '' if at_start is None else f', {at_start.share:.1%} when training started'
        return (
            f'sparsity alarm: {found} of {channels} filters, {counts.share:.1%}, '
            f'{MEASURES[measure].meaning} ({measure}, {self.name} {self.limits[measure]:.1%}'
            f'{started}). Worst layers: {layers}. Likely causes, and what to do: '
            + '; '.join(f'({k}) {cause}' for k, cause in enumerate(causes, start=1))
        )


def worst_layers(counts: ChannelCounts) -> dict[str, tuple[int, int]]:
    """The five layers with the largest shares: layer -> (channels found, channels)."""
    hit = {name: count for name, count in counts.by_layer.items() if count[0]}
    order = sorted(hit, key=lambda name: (-hit[name][0] / hit[name][1], -hit[name][0]))
    return {name: hit[name] for name in order[:_WORST_LAYERS]}
