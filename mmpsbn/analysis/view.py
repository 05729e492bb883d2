"""Numbers, tables and findings as pages show them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def number_text(value: Any) -> str:
    """A number for people: '' for None and NaN, thousands for counts, three digits for others."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ''
    if isinstance(value, str):
        return value
    return f'{value:,}' if isinstance(value, int) else f'{value:.3g}'


def percent(value: float | None) -> str:
    return '' if value is None else f'{100 * value:.1f} %'


def millions(value: float | None) -> str:
    return '' if value is None else f'{value / 1e6:,.3g}'


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its value in a row, what stands above it, whether it holds
    words (which stand at the left and may be broken), and what is shown of a value."""

    key: str
    label: str
    is_text: bool = False
    show: Callable[[Any], str] = number_text


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, by row; ``bad`` rows are in red."""

    label: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    bad: tuple[bool, ...]


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], label: str) -> Table:
    """The columns in which some row holds anything. A row with a ``note`` is bad."""
    held = tuple(c for c in columns if any(row.get(c.key) not in (None, '') for row in rows))
    cells = (tuple(column.show(row.get(column.key)) for column in held) for row in rows)
    return Table(label, held, tuple(cells), tuple(bool(row.get('note')) for row in rows))


@dataclass(frozen=True)
class Finding:
    """What was found of a matter, in sentences in which code stands between backticks; below it,
    a command that does what they advise."""

    matter: str
    words: str
    command: str | None = None
