"""What the numbers of an experiment say of its claim, clause by clause."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .measured import Measured, Numbers, Quantity

# What one run of an arm cannot tell apart. An accuracy of about 75 % on 10,000 images has a
# standard error of 0.4 points, and seeds differ about as much: two of the difference of two arms.
POINTS = 1.6  # of accuracy
SHARE = 0.02  # of filters, FLOPs or weights


@dataclass(frozen=True)
class Verdict:
    """What was found, and whether it is as claimed; None where the numbers cannot tell."""

    found: str
    holds: bool | None


Claims = Callable[[Numbers], Mapping[str, Verdict]]  # numbers -> clause -> verdict
Rule = Callable[[Sequence[float], float], bool | None]  # of some values and their margin


def sentence(clause: str, verdict: Verdict) -> str:
    """For a reader."""
    words = {True: 'holds', False: 'does not hold', None: 'cannot be told'}
    return f'{clause}: {words[verdict.holds]} here; {verdict.found}'


def judge(
    rule: Rule,
    quantity: Quantity,
    *arms: Measured,
    found: str = '{course}',
    given: bool | None = None,
) -> Verdict:
    """By one quantity of several arms at their end, or of one arm after each round.

    Args:
        found: in it ``{0}`` is the value of the first arm in words, ``{course}`` are all.
        given: whether these values can tell. By default they do where all arms have learnt
            something, and those that have not are named.
    """
    subjects = arms if len(arms) > 1 else arms[0].steps or arms
    values = [*map(quantity.of, subjects)]
    if len(arms) == 1:  # a round in which nobody looked
        values = [value for value in values if value is not None]
    words = ['' if value is None else quantity.words(value) for value in values]
    told = values and None not in values and given is not False
    holds = rule(values, quantity.margin) if told else None
    verdict = Verdict(found.format(*words, course=', '.join(words)), holds)
    return tell(verdict.found, holds, *arms) if given is None else verdict


def tell(found: str, holds: bool | None, *arms: Measured) -> Verdict:
    """A verdict from some arms: they cannot tell where one of them has learnt nothing."""
    lost = [arm.name for arm in arms if learnt_nothing(arm)]
    if lost:
        return Verdict(f'{found}; no better than a guess: {"; ".join(lost)}', None)
    return Verdict(found, holds)


def learnt_nothing(arm: Measured) -> bool:
    """Whether the last loss is that of a guess among the classes, nearly, or no number. A net
    without a working filter, or one that diverged, has no sparsity to compare."""
    return arm.loss is None or not arm.loss < 0.98 * math.log(arm.classes)


def more(a: float, than: float, margin: float) -> bool | None:
    """Whether ``a`` is larger; None where they differ by less than ``margin``, or one is none."""
    return a > than if abs(a - than) >= margin else None


def no_less(values: Sequence[float], margin: float) -> bool | None:
    """Whether the second of two is at least as large; None where it is smaller by less than
    ``margin``."""
    than, a = values
    return True if a >= than else more(a, than, margin)


def grows(values: Sequence[float], margin: float) -> bool | None:
    """Whether numbers grow from the first to the last and nowhere fall by ``margin``."""
    falls = any(before - after >= margin for before, after in pairwise(values))
    return False if falls else more(values[-1], values[0], margin)


def falls(values: Sequence[float], margin: float) -> bool | None:
    """Whether numbers end below their largest by ``margin``; None where they end neither so nor
    above the first by it."""
    if max(values) - values[-1] >= margin:
        return True
    return False if values[-1] - values[0] >= margin else None


def under_a_fifth(values: Sequence[float], margin: float) -> bool | None:
    """Whether the second share is under a fifth of the first; None where that is little, or
    within half of the margin of a fifth."""
    of, share = values
    return None if of < 2 * margin else more(of / 5, share, margin / 2)
