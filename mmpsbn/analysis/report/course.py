"""How a config trains, and when a filter that dies in such a run counts as collapsed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alternative:
    """The same run under an optimizer: when a dead filter's gamma falls below the threshold.

    Attributes:
        name: of the optimizer and its kind of decay.
        steps: until it does; None if the run is too short.
        kept: share of |gamma| left at the end of the run, in [0, 1].
    """

    name: str
    steps: int | None
    kept: float


@dataclass(frozen=True)
class Course:
    """How a config trains.

    Attributes:
        sentence: the forecast, in words.
        alternatives: the same run under other optimizers; empty without a forecast.
        num_steps: of the run.
        lrs: the learning rate of gamma at each step; None where nobody knows.
        optimizer: class name.
        momentum: of SGD, in [0, 1); 0 for others.
    """

    sentence: str
    alternatives: tuple[Alternative, ...]
    num_steps: int
    lrs: tuple[float, ...] | None
    optimizer: str
    momentum: float
