"""What an experiment is: arms, trained alike but for one thing, and what is read of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from .pictures import Panel
from .tables import Numbers, Table
from .verdicts import Judge


@dataclass(frozen=True, eq=False)
class Arm:
    """One training. Equal to itself alone.

    Attributes:
        name: as in the table; ``'row, column'`` where arms form a grid.
        config: path under ``configs/``.
        options: settings over it, as for MMEngine's ``Config.merge_from_dict``: the keys may
            have dots, ``_delete_=True`` replaces a dict.
        pretrained: the arm of the same experiment whose backbone it starts from.
    """

    name: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Optional['Arm'] = None

    @property
    def folder(self) -> str:
        """Name of its folder: letters, digits, dots and underscores of the name."""
        words = ''.join(c if c.isalnum() or c in '.-' else ' ' for c in self.name).split()
        return '_'.join(words)


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper.

    Attributes:
        name: on the command line.
        shows: the figure or table, in words.
        claim: what the paper says.
        arms: scale -> the trainings; an arm comes after the one it starts from.
        read: work folder of a trained arm -> its numbers, plain types; a function that can be
            pickled, for it runs in the process that trained.
        tabulate: numbers by arm -> the table.
        panels: numbers by arm -> what to draw, side by side.
        judge: numbers by arm -> for each clause of the claim whether these numbers say so.
    """

    name: str
    shows: str
    claim: str
    arms: Callable[[str], Sequence[Arm]]
    read: Callable[[Path], dict[str, Any]]
    tabulate: Callable[[Numbers], Table]
    panels: Callable[[Numbers], Sequence[Panel]]
    judge: Judge
