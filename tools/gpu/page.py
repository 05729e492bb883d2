"""The page and the JSON file of a run; written anew after each check, so that what is there when a
run is cut off is whole."""

import json
from collections import Counter
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from mmpsbn.experiments.folder import this_machine
from mmpsbn.experiments.folder import write as write_whole
from mmpsbn.experiments.tables import markdown

from .checks import Found, Outcome, mmcv_operations

_JSON = 'gpu_check.json'


def machine() -> dict:
    """What a reader must know to compare numbers."""
    return this_machine() | dict(
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        mmdet=import_module('mmdet').__version__ if find_spec('mmdet') else 'not installed',
        mmcv_operations=mmcv_operations(),
    )


class Page:
    """``gpu_check.md`` and ``gpu_check.json`` in a folder, with what an earlier run left there.

    Args:
        about: machine, versions, seed and settings of the run.

    Attributes:
        outcomes: by part and name.

    Raises:
        ValueError: the folder has the page of another machine, or of other settings.
    """

    def __init__(self, folder: Path, about: dict):
        self._folder = folder
        self._about = about
        self.outcomes: dict[str, dict[str, Outcome]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _JSON).exists():
            self._read(json.loads((folder / _JSON).read_text()))
        self.write(ended=False)

    def _read(self, record: dict) -> None:
        other = [key for key, value in self._about.items() if record.get(key) != value]
        if other := [key for key in other if key != 'minutes']:
            raise ValueError(
                f'{self._folder} has the page of a run with another {", ".join(other)}: name '
                'another folder'
            )
        for part, found in record['parts'].items():
            outcomes = [Outcome(**o | dict(found=Found(**o['found']))) for o in found]
            self.outcomes[part] = {o.name: o for o in outcomes}

    def add(self, part: str, outcome: Outcome) -> None:
        """Takes the place of what the check found before; where it is skipped that stays."""
        found = self.outcomes.setdefault(part, {})
        rows = [[_plain(cell) for cell in row] for row in outcome.found.rows]
        outcome = replace(outcome, found=replace(outcome.found, rows=rows))
        if outcome.verdict != 'skipped' or outcome.name not in found:
            found[outcome.name] = outcome
        self.write(ended=False)

    def write(self, *, ended: bool) -> None:
        parts = {part: [asdict(o) for o in found] for part, found in self._found()}
        record = dict(self._about, ended=ended, summary=self.summary, parts=parts)
        write_whole(self._folder / _JSON, json.dumps(record, indent=1, default=str) + '\n')
        write_whole(self._folder / 'gpu_check.md', self._markdown(ended))

    def _found(self) -> list[tuple[str, list[Outcome]]]:
        return [(part, list(found.values())) for part, found in self.outcomes.items()]

    @property
    def summary(self) -> dict[str, int]:
        """How many checks passed, failed and were skipped."""
        counts = Counter(o.verdict for _, found in self._found() for o in found)
        return {verdict: counts[verdict] for verdict in ('passed', 'failed', 'skipped')}

    def _markdown(self, ended: bool) -> str:
        lines = ['# GPU check', '', *(f'- {key}: {value}' for key, value in self._about.items())]
        if not ended:
            lines += ['', 'The run has not ended: what follows is what it has done.']
        lines += ['', ', '.join(f'{count} {verdict}' for verdict, count in self.summary.items())]
        for part, found in self._found():
            rows = [[o.name, o.verdict, f'{o.seconds:.1f}', _cell(o.found.text)] for o in found]
            lines += ['', f'## {part}', '', markdown(['check', 'outcome', 's', 'found'], *rows)]
            for o in found:
                if o.found.rows:
                    cells = [[*map(str, row)] for row in o.found.rows]
                    lines += ['', f'### {o.name}', o.shows, '']
                    lines += [markdown([*o.found.head], *cells)]
        return '\n'.join(lines) + '\n'


def _plain(value: object) -> object:
    """As it comes back out of JSON."""
    return value if isinstance(value, (int, float, str)) else str(value)


def _cell(text: str) -> str:
    """On one line."""
    return ' '.join(text.split())
