"""What an experiment is: arms, trained alike but for one thing, and what is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .pictures import Panel
from .scales import PICTURES, Data
from .tables import ArmTable, GridTable, measure_of

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One training for each seed.

    Attributes:
        name: as in the table; ``'row, column'`` where arms form a grid.
        config: path under ``configs/``.
        options: settings over it, as for MMEngine's ``Config.merge_from_dict``: the keys may
            have dots, ``_delete_=True`` replaces a dict.
        pretrained: name of the arm before it whose backbone, of the same seed, it starts from.
        whole: it starts from all of that arm's net.
        once: trained with seed 0 alone, and what all seeds of other arms start from.
    """

    name: str
    config: str
    options: Options = field(default_factory=dict)
    pretrained: str | None = None
    whole: bool = False
    once: bool = False

    def run(self, seed: int) -> str:
        """Name of its training with a seed of the experiment."""
        return f'{self.name}, seed {0 if self.once else seed}'


Arms = Callable[[str], list[Arm]]  # of a scale


def sweep(config: str, common: Options, changes: Mapping[str, Options]) -> list[Arm]:
    """Arms that differ in one thing: name -> options over those of all."""
    return [Arm(name, config, {**common, **own}) for name, own in changes.items()]


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper; the catalogue knows its name on the command line.

    Attributes:
        claim: what the paper says.
        arms: scale -> the trainings; an arm comes after the one it starts from.
        table: of the numbers by arm.
        panels: pictures of them, side by side.
        data: what it is trained on.
        shows: the figure or table, in a line; the catalogue takes it from the docstring of the
            file.
    """

    claim: str
    arms: Arms
    table: ArmTable | GridTable
    panels: Sequence[Panel]
    data: Data = PICTURES
    shows: str = ''

    @property
    def measures(self) -> list[str]:
        """Of :data:`.measure.MEASURES`, those that the table and the pictures ask for."""
        fields = [field for part in (self.table, *self.panels) for field in part.fields]
        return list(dict.fromkeys(map(measure_of, fields)))
