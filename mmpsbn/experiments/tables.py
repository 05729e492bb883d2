"""Tables of numbers by arm, of the cells of :mod:`.measured`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .measured import Numbers, grid, write_cell


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
    def cells(self) -> list[str]:
        return [self.step, *self.columns.values()]

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        count = max(arm.steps(self.step) for arm in numbers.values())
        heads = [self.step_head.format(at) for at in range(1, count + 1)]
        lines = [(self.corner, *heads, *self.columns)]
        for name, arm in numbers.items():
            own = arm.steps(self.step)
            steps = [write_cell(self.step, arm.at(step)) for step in range(own)]
            cells = [write_cell(cell, arm.at(-1)) for cell in self.columns.values()]
            lines.append((name, *steps, *[''] * (count - own), *cells))
        return lines


@dataclass(frozen=True)
class GridTable:
    """Rows and columns of :func:`.measured.grid`, columns from the smallest number to the
    largest, with the same ``cell`` everywhere; empty where there is no such arm."""

    corner: str
    cell: str

    @property
    def cells(self) -> list[str]:
        return [self.cell]

    def lines(self, numbers: Numbers) -> list[tuple[str, ...]]:
        """The head and the rows."""
        rows = grid(numbers)
        columns = sorted({column for row in rows.values() for column in row}, key=float)
        lines = [(self.corner, *columns)]
        for name, row in rows.items():
            cells = [write_cell(self.cell, row[k].at(-1)) if k in row else '' for k in columns]
            lines.append((name, *cells))
        return lines
