"""What the numbers of an experiment say of its claim, clause by clause."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

from .tables import Numbers

# What one run of an arm cannot tell apart. Accuracies of about 75 % on 10,000 images have a
# standard error of 0.4 points, and seeds differ as much again.
POINTS = 1.0  # of accuracy
SHARE = 0.02  # of filters, FLOPs or weights
_GUESS = 0.98 * math.log(10)  # the loss of a guess among ten classes, nearly


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
    """Whether ``a`` is larger; None where they differ by less than ``margin``."""
    return None if abs(a - than) < margin else a > than


def no_less(a: float, than: float, margin: float) -> bool | None:
    """Whether ``a`` is at least as large; None where it is smaller by less than ``margin``."""
    return True if a >= than else more(a, than, margin)


def untrained(numbers: Numbers) -> list[str]:
    """The arms whose loss ended as that of a guess, or not as a number."""
    last = {name: arm['loss'] for name, arm in numbers.items()}
    last = {name: loss[-1] if isinstance(loss, list) else loss for name, loss in last.items()}
    return [name for name, loss in last.items() if loss is None or not loss < _GUESS]


def of_trained(judge: Judge) -> Judge:
    """A judge that says nothing where an arm has learnt nothing: a net without a working
    filter, or one that diverged, has no sparsity to compare."""

    @wraps(judge)
    def judged(numbers: Numbers) -> Sequence[Finding]:
        lost = untrained(numbers)
        if lost:
            return [Finding('the claim', f'not better than a guess: {"; ".join(lost)}', None)]
        return judge(numbers)

    return judged


def under_a_fifth(psbn: float, bn: float, what: str = 'FLOPs sparsity') -> Finding:
    """Whether psBN has under a fifth of BN's sparsity (shares)."""
    found = f'{what} {psbn:.1%} with psBN, {bn:.1%} with BN'
    return Finding('psBN keeps it under a fifth', found, None if bn < 2 * SHARE else psbn < bn / 5)
