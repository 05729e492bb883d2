"""What a report or a log says, as plain data. The page, the terminal and the pictures show it."""

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
    """A column of a table.

    Attributes:
        key: of the value in a row.
        label: what stands above the column.
        is_text: whether it holds words, which stand at the left and may be broken.
        show: value -> what is shown of it.
    """

    key: str
    label: str
    is_text: bool = False
    show: Callable[[Any], str] = number_text


@dataclass(frozen=True)
class Row:
    """Cells as they are shown; ``bad`` rows are in red."""

    cells: tuple[str, ...]
    bad: bool = False


@dataclass(frozen=True)
class Table:
    label: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], label: str) -> Table:
    """The columns in which some row holds anything. A row with a ``note`` is bad."""
    held = tuple(c for c in columns if any(row.get(c.key) not in (None, '') for row in rows))
    return Table(
        label,
        held,
        tuple(
            Row(tuple(c.show(row.get(c.key)) for c in held), bool(row.get('note'))) for row in rows
        ),
    )


@dataclass(frozen=True)
class Chart:
    """A picture before it is drawn.

    Attributes:
        name: which picture it is; who draws knows it.
        caption: what it shows.
        data: what is drawn.
    """

    name: str
    title: str
    caption: str
    data: Any


@dataclass(frozen=True)
class Section:
    title: str
    paragraphs: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What was found of a matter, in sentences in which code stands between backticks; below it,
    a command that does what they advise."""

    matter: str
    words: str
    command: str | None = None


@dataclass(frozen=True)
class View:
    """Everything that is said.

    Attributes:
        findings: the summary.
        tiles: (number, what it is), at a glance.
        glossary: (word, meaning).
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    findings: tuple[Finding, ...] = ()
    tiles: tuple[tuple[str, str], ...] = ()
    glossary: tuple[tuple[str, str], ...] = ()
