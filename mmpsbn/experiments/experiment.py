"""What an experiment is: arms, trained alike but for one thing, and what is read of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Arm:
    """One training. Equal to itself alone.

    Attributes:
        name: as in the table.
        config: path under ``configs/``.
        options: settings over it, as for MMEngine's ``Config.merge_from_dict``: the keys may
            have dots, ``_delete_=True`` replaces a dict.
    """

    name: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its folder: letters, digits and underscores of the name."""
        words = ''.join(c if c.isalnum() or c in '.-' else ' ' for c in self.name).split()
        return '_'.join(words)


@dataclass(frozen=True)
class Table:
    """Rows of text under a head, as Markdown."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """First column left, the others right."""
        rule = ['---', *('---:' for _ in self.head[1:])]
        return '\n'.join(f'| {" | ".join(row)} |' for row in (self.head, rule, *self.rows))


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper.

    Attributes:
        name: on the command line.
        shows: the figure or table, in words.
        claim: what the paper says.
        arms: scale -> the trainings.
        read: work folder of a finished arm -> its numbers, plain types.
        tabulate: numbers by arm -> the table.
        draw: numbers by arm, path -> a picture there.
        judge: numbers by arm -> a sentence: whether the claim holds in these numbers.
    """

    name: str
    shows: str
    claim: str
    arms: Callable[[str], Sequence[Arm]]
    read: Callable[[Path], dict[str, Any]]
    tabulate: Callable[[Mapping[str, dict]], Table]
    draw: Callable[[Mapping[str, dict], Path], None]
    judge: Callable[[Mapping[str, dict]], str]
