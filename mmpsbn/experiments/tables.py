"""The numbers of trained arms, over their seeds, and tables of them.

A cell is written as for ``str.format``: ``{top1:.1f}`` is a number by the name of its measure,
``{removed[macs]:.1p}`` one of several, ``p`` a share in percent, and a mapping all of its numbers.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any


@dataclass(frozen=True)
class Spread:
    """One number of an arm, with each of its seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Standard deviation of the sample; 0 of one seed, of which nothing is known."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __format__(self, spec: str) -> str:
        """The mean, and of several seeds ± the standard deviation; a count that is the same with
        all of them is written as it is."""
        if len(self.values) == 1 or (not spec and len(set(self.values)) == 1):
            return _number(self.values[0], spec)
        spec = spec or '.1f'
        return f'{_number(self.mean, spec)} ± {_number(self.std, spec.lstrip("+"))}'


def _number(value: float, spec: str) -> str:
    return format(100 * value, f'{spec[:-1]}f') if spec.endswith('p') else format(value, spec)


def over_seeds(numbers: Sequence[Any]) -> Any:
    """What was read of an arm with each seed, each number a :class:`Spread`; None where one seed
    has none, as its loss after it diverged."""
    if any(of is None for of in numbers):
        return None
    if isinstance(numbers[0], Mapping):
        return {key: over_seeds([of[key] for of in numbers]) for key in numbers[0]}
    if isinstance(numbers[0], list):
        return [over_seeds(values) for values in zip(*numbers, strict=True)]
    return Spread(tuple(numbers))


@dataclass(frozen=True)
class Measured:
    """The numbers of an arm.

    Attributes:
        numbers: measure -> :class:`Spread`, mapping of such, or list by round or by layer.
        start: the arm that it started from, if any.
    """

    numbers: Mapping[str, Any]
    start: 'Measured | None' = None

    def at(self, step: int) -> dict[str, Any]:
        """The numbers with only that round or layer of each list, None where it has none such; -1
        is the last one."""
        return {
            name: next(iter(value[step:]), None) if isinstance(value, list) else value
            for name, value in self.numbers.items()
        }

    def steps(self, fields: Sequence[str]) -> int:
        """How many rounds or layers there are of any of these numbers."""
        asked = (self.numbers[measure_of(field)] for field in fields)
        return max((len(of) for of in asked if isinstance(of, list)), default=0)

    def drawn(self, field: str, step: int = -1) -> Spread | None:
        """A number by its place, as in a cell."""
        return _CELL.get_field(field, (), self.at(step))[0]

    def written(self, cell: str, step: int = -1) -> str:
        """Its numbers in a cell, with nothing in place of None."""
        return _CELL.vformat(cell, (), self.at(step))


Numbers = Mapping[str, Measured]  # by the name of the arm


def grid(numbers: Numbers) -> dict[str, dict[str, Measured]]:
    """Arms named ``'row, column'`` as row -> column -> numbers, in the order of the arms."""
    rows: dict[str, dict[str, Measured]] = {}
    for name, arm in numbers.items():
        row, _, column = name.rpartition(', ')
        rows.setdefault(row, {})[column] = arm
    return rows


class _Cell(Formatter):
    def format_field(self, value: Any, spec: str) -> str:
        if value is None:
            return ''
        if isinstance(value, Mapping):
            return ', '.join(self.format_field(item, spec) for item in value.values())
        return format(value, spec)


_CELL = _Cell()


def fields_of(cell: str) -> list[str]:
    """The places of the numbers in a cell."""
    return [field for _, field, _, _ in Formatter().parse(cell) if field]


def measure_of(field: str) -> str:
    return re.match(r'\w+', field).group()


def markdown(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A table whose first column is left, the others right."""
    rule = ['---', *('---:' for _ in head[1:])]
    lines = [[cell.replace('|', '\\|') for cell in line] for line in (head, rule, *rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


@dataclass(frozen=True)
class ArmTable:
    """A row an arm.

    Attributes:
        corner: what stands above the names of the arms.
        columns: head -> cell.
        step: cell of the columns before these, one for each round or layer, if given.
        step_head: their head, in which ``{}`` is the number of the step from 1.
    """

    corner: str
    columns: Mapping[str, str] = field(default_factory=dict)
    step: str = ''
    step_head: str = '{}'

    @property
    def fields(self) -> list[str]:
        cells = self.step, *self.columns.values()
        return [place for cell in cells for place in fields_of(cell)]

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        fields = fields_of(self.step)
        count = max(arm.steps(fields) for arm in numbers.values())
        heads = [self.step_head.format(at) for at in range(1, count + 1)]
        lines = [(self.corner, *heads, *self.columns)]
        for name, arm in numbers.items():
            own = arm.steps(fields)
            steps = [arm.written(self.step, step) for step in range(own)]
            cells = [arm.written(cell) for cell in self.columns.values()]
            lines.append((name, *steps, *[''] * (count - own), *cells))
        return lines


@dataclass(frozen=True)
class GridTable:
    """Rows and columns of :func:`grid`, columns from the smallest number to the
    largest, with the same ``cell`` everywhere; empty where there is no such arm."""

    corner: str
    cell: str

    @property
    def fields(self) -> list[str]:
        return fields_of(self.cell)

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        rows = grid(numbers)
        columns = sorted({column for row in rows.values() for column in row}, key=float)
        lines = [(self.corner, *columns)]
        for name, row in rows.items():
            cells = [row[at].written(self.cell) if at in row else '' for at in columns]
            lines.append((name, *cells))
        return lines
