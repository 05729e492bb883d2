"""The page and the JSON file of a run; written anew after each check, so that what is there when a
run is cut off is whole."""

import json
import os
import platform
from collections import Counter
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import timing
import torch

from mmpsbn.engine.files import AtomicLocalBackend
from mmpsbn.experiments.tables import markdown

from .checks import Outcome

_PACKAGES = dict(
    mmengine=('onedl-mmengine', 'mmengine'),
    mmcv=('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    mmdet=('onedl-mmdetection', 'mmdet'),
    mmpretrain=('onedl-mmpretrain', 'mmpretrain'),
    mmpsbn=('mmpsbn',),
)


def mmcv_operations() -> str:
    """For what mmcv's operations are compiled: 'cuda', 'cpu' or 'nothing'."""
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ModuleNotFoundError:
        return 'nothing'
    return 'cpu' if get_compiling_cuda_version() == 'not available' else 'cuda'


def machine() -> dict:
    """What a reader must know to compare numbers."""
    known = dict(
        processor=timing.cpu_model(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else 'none',
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
    )
    known |= {name: _version(*names) for name, names in _PACKAGES.items()}
    return known | dict(mmcv_operations=mmcv_operations())


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return 'not installed'


class Page:
    """``gpu_check.md`` and ``gpu_check.json`` in a folder.

    Args:
        about: machine, versions, seed and settings of the run.
    """

    def __init__(self, folder: Path, about: dict):
        self._folder = folder
        self._about = about
        self.outcomes: dict[str, list[Outcome]] = {}  # by part
        folder.mkdir(parents=True, exist_ok=True)
        self.write(ended=False)

    def add(self, part: str, outcome: Outcome) -> None:
        self.outcomes.setdefault(part, []).append(outcome)
        self.write(ended=False)

    def write(self, *, ended: bool) -> None:
        parts = {part: [asdict(o) for o in found] for part, found in self.outcomes.items()}
        record = dict(self._about, ended=ended, summary=self.summary, parts=parts)
        self._put('gpu_check.json', json.dumps(record, indent=1, default=str) + '\n')
        self._put('gpu_check.md', self._markdown(ended))

    @property
    def summary(self) -> dict[str, int]:
        """How many checks passed, failed and were skipped."""
        counts = Counter(o.verdict for found in self.outcomes.values() for o in found)
        return {verdict: counts[verdict] for verdict in ('passed', 'failed', 'skipped')}

    def _markdown(self, ended: bool) -> str:
        lines = ['# GPU check', '', *(f'- {key}: {value}' for key, value in self._about.items())]
        if not ended:
            lines += ['', 'The run has not ended: what follows is what it has done.']
        lines += ['', ', '.join(f'{count} {verdict}' for verdict, count in self.summary.items())]
        for part, found in self.outcomes.items():
            rows = [[o.name, o.verdict, f'{o.seconds:.1f}', _cell(o.found.text)] for o in found]
            lines += ['', f'## {part}', '', markdown(['check', 'outcome', 's', 'found'], *rows)]
            for o in found:
                if o.found.rows:
                    cells = [[*map(str, row)] for row in o.found.rows]
                    lines += ['', f'### {o.name}', o.shows, '']
                    lines += [markdown([*o.found.head], *cells)]
        return '\n'.join(lines) + '\n'

    def _put(self, name: str, text: str) -> None:
        AtomicLocalBackend().put(text.encode(), str(self._folder / name))


def _cell(text: str) -> str:
    """On one line."""
    return ' '.join(text.split())
