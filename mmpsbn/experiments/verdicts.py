"""What the numbers of an experiment say of its claim, clause by clause."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .tables import Numbers

# What one run of an arm cannot tell apart. An accuracy of about 75 % on 10,000 images has a
# standard error of 0.4 points, and seeds differ about as much: two of the difference of two arms.
POINTS = 1.6  # of accuracy
SHARE = 0.02  # of filters, FLOPs or weights


@dataclass(frozen=True)
class Finding:
    """A clause of a claim, in words, and what was found.

    Attributes:
        holds: None where the numbers cannot tell.
    """

    clause: str
    found: str
    holds: bool | None

    def __str__(self) -> str:
        words = {True: 'holds', False: 'does not hold', None: 'cannot be told'}
        return f'{self.clause}: {words[self.holds]} here; {self.found}'


Judge = Callable[[Numbers], Sequence[Finding]]


def more(a: float, than: float, margin: float) -> bool | None:
    """Whether ``a`` is larger; None where they differ by less than ``margin``, or one is none."""
    return a > than if abs(a - than) >= margin else None


def no_less(a: float, than: float, margin: float) -> bool | None:
    """Whether ``a`` is at least as large; None where it is smaller by less than ``margin``."""
    return True if a >= than else more(a, than, margin)


def grows(course: Sequence[float], margin: float) -> bool | None:
    """Whether numbers grow from the first to the last and nowhere fall by ``margin``."""
    falls = any(before - after >= margin for before, after in pairwise(course))
    return False if falls else more(course[-1], course[0], margin)


def falls(course: Sequence[float], margin: float) -> bool | None:
    """Whether numbers end below their largest by ``margin``; None where they end neither so nor
    above the first by it."""
    if max(course) - course[-1] >= margin:
        return True
    return False if course[-1] - course[0] >= margin else None


def learnt_nothing(arm: dict[str, Any]) -> bool:
    """Whether the last loss is that of a guess among the classes, nearly, or no number. A net
    without a working filter, or one that diverged, has no sparsity to compare."""
    loss = arm['loss'][-1] if isinstance(arm['loss'], list) else arm['loss']
    return loss is None or not loss < 0.98 * math.log(arm['classes'])


def tell(
    clause: str, found: str, holds: bool | None, numbers: Numbers, arms: Iterable[str]
) -> Finding:
    """A finding from some arms: they cannot tell where one of them has learnt nothing."""
    lost = [name for name in arms if learnt_nothing(numbers[name])]
    if lost:
        return Finding(clause, f'{found}; no better than a guess: {"; ".join(lost)}', None)
    return Finding(clause, found, holds)


def under_a_fifth(psbn: float, bn: float) -> bool | None:
    """Whether psBN has under a fifth of BN's share; None where BN has little, or within a
    percentage point of a fifth."""
    return None if bn < 2 * SHARE else more(bn / 5, psbn, SHARE / 2)
