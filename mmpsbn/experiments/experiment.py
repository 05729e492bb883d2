"""What an experiment is: arms, trained alike but for one thing, and what is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pictures import Panel
from .scales import PICTURES, Data
from .tables import ArmTable, GridTable
from .verdicts import Claims

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        name: as in the table; ``'row, column'`` where arms form a grid.
        config: path under ``configs/``.
        options: settings over it, as for MMEngine's ``Config.merge_from_dict``: the keys may
            have dots, ``_delete_=True`` replaces a dict.
        pretrained: name of the arm before it whose backbone it starts from.
        whole: it starts from all of that arm's net.
        seed: added to that of the experiment.
    """

    name: str
    config: str
    options: Options = field(default_factory=dict)
    pretrained: str | None = None
    whole: bool = False
    seed: int = 0


def arms_by_scale(
    config: str, common: Mapping[str, Options], changes: Callable[[str], Mapping[str, Options]]
) -> dict[str, list[Arm]]:
    """Arms that differ in one thing.

    Args:
        common: scale -> options of all arms.
        changes: scale -> name of an arm -> its options over these.
    """
    return {
        scale: [Arm(name, config, {**options, **change}) for name, change in changes(scale).items()]
        for scale, options in common.items()
    }


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
        table: of the numbers by arm.
        panels: pictures of them, side by side.
        claims: numbers by arm -> each clause of the claim, and whether these numbers say so.
        data: what it is trained on.
    """

    name: str
    shows: str
    claim: str
    arms: Mapping[str, Sequence[Arm]]
    read: Callable[[Path], dict[str, Any]]
    table: ArmTable | GridTable
    panels: Sequence[Panel]
    claims: Claims
    data: Data = PICTURES
