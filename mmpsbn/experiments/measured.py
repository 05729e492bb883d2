"""The numbers of trained arms, and the quantities that are drawn and judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


class Measured(SimpleNamespace):
    """What was read of an arm, each number an attribute; of a list, one a round, the last.

    Attributes:
        name: of the arm.
        steps: the same after each round; where the lists are of layers, of each layer.
    """

    def __init__(self, name: str, numbers: Mapping[str, Any]):
        lists = {key: value for key, value in numbers.items() if isinstance(value, list)}
        self.steps = [
            SimpleNamespace(**numbers | dict(zip(lists, values)))
            for values in zip(*lists.values(), strict=True)
        ]
        super().__init__(name=name, **vars(self.steps[-1]) if self.steps else numbers)


Numbers = Mapping[str, Measured]  # by the name of the arm


def grid(numbers: Numbers) -> dict[str, dict[str, Measured]]:
    """Arms named ``'row, column'`` as row -> column -> numbers, in the order of the arms."""
    rows: dict[str, dict[str, Measured]] = {}
    for name, arm in numbers.items():
        row, _, column = name.rpartition(', ')
        rows.setdefault(row, {})[column] = arm
    return rows


def over_seeds(numbers: Numbers) -> dict[str, SimpleNamespace]:
    """Arms named ``'..., seed K'`` as one of the name before that: of each number the mean, and
    as ``<number>_spread`` half of the distance between the largest and the smallest, None where
    there is one seed."""
    groups: dict[str, list[Measured]] = {}
    for name, arm in numbers.items():
        groups.setdefault(name.partition(', seed ')[0], []).append(arm)
    joined = {}
    for name, arms in groups.items():
        joined[name] = of_all = SimpleNamespace(**vars(arms[0]))
        for key in vars(arms[0]):
            values = [getattr(arm, key) for arm in arms]
            if not all(isinstance(value, (int, float)) for value in values):
                continue
            several = len(arms) > 1
            setattr(of_all, key, sum(values) / len(values) if several else values[0])
            spread = (max(values) - min(values)) / 2 if several else None
            setattr(of_all, f'{key}_spread', spread)
    return joined


@dataclass(frozen=True)
class Quantity:
    """A number of an arm that is drawn and judged.

    Attributes:
        label: of its axis, with the unit.
        of: an arm, or one of its steps -> the number; None where there is none.
        spec: its format in words: ``'.1%'`` a share, which is drawn in percent, ``'.1f %'`` a
            number and its unit.
        margin: what one run cannot tell apart.
    """

    label: str
    of: Callable[[SimpleNamespace], float | None]
    spec: str
    margin: float = 0

    def words(self, value: float) -> str:
        """A value in words."""
        number, space, unit = self.spec.partition(' ')
        return f'{value:{number}}{space}{unit}'

    def drawn(self, arm: SimpleNamespace) -> float | None:
        """The number as a picture has it."""
        value = self.of(arm)
        is_share = self.spec.partition(' ')[0].endswith('%')
        return 100 * value if is_share and value is not None else value
