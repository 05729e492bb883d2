"""When a budget's cuts happen, and how much is to be left after each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ...functional.schedules import steps_of
from .settings import BudgetSettings

# Optimizer steps between two cuts: what the choice is made from, and time to recover.
LEAST_STEPS = 10
# More cuts choose no better, and each one verifies and traces the model.
_MOST_CUTS = 20


@dataclass(frozen=True)
class BudgetSchedule:
    """Evenly spaced cuts; after the k-th of n, a share k / n of all that must go has gone.

    Attributes:
        events: iterations of training done at each cut, rising.
    """

    events: tuple[int, ...]

    @classmethod
    def of_run(
        cls, settings: BudgetSettings, *, finetunes: bool, iters: int, iters_per_step: int
    ) -> 'BudgetSchedule':
        """As many cuts as the window has room for, with ten optimizer steps before each, at most
        20; or ``cuts``, where it is set.

        Args:
            finetunes: see :meth:`.BudgetSettings.window`.
            iters: of the whole run.
            iters_per_step: over which gradients are accumulated.

        Raises:
            ValueError: there is no room for them, or for two; says how long a run must be.
        """
        window = settings.window(finetunes=finetunes)
        begin, end = (steps_of(share, iters) for share in window)
        room = int((end - begin) // (iters_per_step * LEAST_STEPS))
        cuts = settings.cuts or min(room, _MOST_CUTS)
        least = settings.cuts or 2
        if room < least:
            share = window[1] - window[0]
            needed = math.ceil(round(least * LEAST_STEPS * iters_per_step / share, 6))
            raise ValueError(
                f'{settings}: a run of {iters} iterations has no room for {least} cuts with '
                f'{LEAST_STEPS} optimizer steps before each between {window[0]:g} and '
                f'{window[1]:g} of it; train for {needed} iterations or more'
                + (', or ask for fewer cuts' if settings.cuts else '')
            )
        return cls(tuple(round(begin + (end - begin) * k / cuts) for k in range(1, cuts + 1)))

    def __str__(self) -> str:
        return f'cuts after {", ".join(map(str, self.events))} iterations'

    def state(self) -> dict:
        """Nothing: it follows from the settings."""
        return {}

    def restore(self, state: Mapping) -> None:
        """Nothing."""

    def has_come(self, model: nn.Module, event: int) -> bool:
        """Whether it is time at a planned event: always."""
        return True

    def next_event(self, step: int) -> int | None:
        """Iterations done at the first cut after ``step`` of them."""
        return next((event for event in self.events if event > step), None)

    def share(self, event: int) -> float:
        """Of what must go, what is to be gone after the cut at ``event``."""
        return (self.events.index(event) + 1) / len(self.events)
