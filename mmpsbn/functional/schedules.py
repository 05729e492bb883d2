"""When: the course of a strength over training, as a fraction of its peak."""

import math
from dataclasses import dataclass

from .checks import is_number


def _one_cycle(progress: float, warmup: float, end: float) -> float:
    if progress < warmup:
        return progress / warmup
    return _cosine(progress, warmup, end)


def _cosine(progress: float, warmup: float, end: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (end - warmup)))


def _warmup(progress: float, warmup: float, end: float) -> float:
    return progress / warmup if progress < warmup else 1.0


def steps_of(fraction: float, total_steps: int) -> float:
    """The point of training that a fraction of it stands for, in steps: 0.07 of 100 steps are
    7, though their product in floating point is 7.000000000000001, and a third of 300 is 100."""
    return round(fraction * total_steps, 6)


SCHEDULES = {
    'one_cycle': _one_cycle,
    'constant': lambda progress, warmup, end: 1.0,
    'warmup': _warmup,
    'cosine': lambda progress, warmup, end: _cosine(progress, 0.0, end),
}


@dataclass(frozen=True)
class Schedule:
    """Fraction of the peak, in [0, 1], at a point of training.

    With p = step / total_steps:

    * ``one_cycle``: linear 0 -> 1 on [0, warmup], cosine 1 -> 0 on [warmup, end]
      (DemP section 3.1);
    * ``warmup``: linear 0 -> 1 on [0, warmup], then 1;
    * ``cosine``: cosine 1 -> 0 on [0, end];
    * ``constant``: 1.

    All are 0 from p = end on.

    Args:
        type: one of :data:`SCHEDULES`.
        warmup: end of the linear rise, a fraction of training in [0, end);
            not used by ``constant`` and ``cosine``.
        end: where the schedule ends, a fraction of training in (0, 1].

    Raises:
        ValueError: an unknown type, or fractions out of their range.
    """

    type: str
    warmup: float
    end: float

    def __post_init__(self):
        if self.type not in SCHEDULES:
            raise ValueError(f'schedule type must be one of {sorted(SCHEDULES)}, got {self.type!r}')
        if not (is_number(self.end) and 0 < self.end <= 1):
            raise ValueError(f'schedule end must be in (0, 1], got {self.end!r}')
        if not (is_number(self.warmup) and 0 <= self.warmup < self.end):
            raise ValueError(
                f'schedule warmup must be >= 0 and below end={self.end}, got {self.warmup}'
            )

    def __call__(self, step: int, total_steps: int) -> float:
        """Fraction of the peak at 0-based ``step`` of ``total_steps``."""
        progress = step / total_steps
        if progress >= self.end:
            return 0.0
        return SCHEDULES[self.type](progress, self.warmup, self.end)
