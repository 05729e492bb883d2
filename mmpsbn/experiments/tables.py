"""Tables of numbers by arm.

A cell is written as for ``str.format``: ``{top1:.1f}`` is a number by its name,
``{removed[macs]:.1p}`` one of several, ``p`` a share in percent, and a mapping all of its numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from types import SimpleNamespace
from typing import Any

from .measured import Numbers, grid, over_seeds


class _Cell(Formatter):
    def format_field(self, value: Any, spec: str) -> str:
        if value is None:
            return ''
        if isinstance(value, Mapping):
            return ', '.join(self.format_field(item, spec) for item in value.values())
        if spec.endswith('p'):
            return format(100 * value, f'{spec[:-1]}f')
        return format(value, spec)


def write_cell(cell: str, numbers: SimpleNamespace) -> str:
    """Empty in place of None."""
    return _Cell().vformat(cell, (), vars(numbers))


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
        step: cell of the columns before these, one for each of the arm's steps, if given.
        step_head: their head, in which ``{}`` is the number of the step from 1.
    """

    corner: str
    columns: Mapping[str, str] = field(default_factory=dict)
    step: str = ''
    step_head: str = '{}'

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        count = max(len(arm.steps) for arm in numbers.values()) if self.step else 0
        heads = [self.step_head.format(at) for at in range(1, count + 1)]
        lines = [(self.corner, *heads, *self.columns)]
        for name, arm in numbers.items():
            steps = [write_cell(self.step, step) for step in arm.steps[:count]]
            empty = [''] * (count - len(steps))
            cells = [write_cell(cell, arm) for cell in self.columns.values()]
            lines.append((name, *steps, *empty, *cells))
        return lines


@dataclass(frozen=True)
class SeedTable(ArmTable):
    """A row for all seeds of an arm, see :func:`.measured.over_seeds`."""

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        return super().lines(over_seeds(numbers))


@dataclass(frozen=True)
class GridTable:
    """Rows and columns of :func:`.measured.grid`, columns from the smallest number to the
    largest, with the same ``cell`` everywhere; empty where there is no such arm."""

    corner: str
    cell: str

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        rows = grid(numbers)
        columns = sorted({column for row in rows.values() for column in row}, key=float)
        lines = [(self.corner, *columns)]
        for name, row in rows.items():
            cells = [write_cell(self.cell, row[k]) if k in row else '' for k in columns]
            lines.append((name, *cells))
        return lines
