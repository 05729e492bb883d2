"""Tables of numbers by arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, dict[str, Any]]  # of each arm, by its name


def number(value: float | None, spec: str) -> str:
    """Empty where there is none."""
    return '' if value is None else format(value, spec)


@dataclass(frozen=True)
class Table:
    """Rows of text under a head, as Markdown."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """First column left, the others right."""
        rule = ['---', *('---:' for _ in self.head[1:])]
        lines = [
            [cell.replace('|', '\\|') for cell in line] for line in (self.head, rule, *self.rows)
        ]
        return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def grid(numbers: Numbers) -> dict[str, dict[str, dict[str, Any]]]:
    """Arms named ``'row, column'`` as row -> column -> numbers, in the order of the arms."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, arm in numbers.items():
        row, _, column = name.rpartition(', ')
        rows.setdefault(row, {})[column] = arm
    return rows


def grid_table(corner: str, numbers: Numbers, cell: Callable[[dict[str, Any]], str]) -> Table:
    """Rows and columns of :func:`grid`, columns from the smallest number to the largest; empty
    where there is no such arm."""
    rows = grid(numbers)
    columns = sorted({column for row in rows.values() for column in row}, key=float)
    return Table(
        (corner, *columns),
        [
            (name, *(cell(row[column]) if column in row else '' for column in columns))
            for name, row in rows.items()
        ],
    )


def arm_table(corner: str, numbers: Numbers, columns: Mapping[str, Callable[[dict], str]]) -> Table:
    """A row an arm, a column for each function."""
    rows = [(name, *(cell(arm) for cell in columns.values())) for name, arm in numbers.items()]
    return Table((corner, *columns), rows)
