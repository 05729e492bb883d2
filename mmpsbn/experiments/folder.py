"""The folder of an experiment: its settings, its arms and its results."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmpretrain
import torch
from filelock import FileLock, Timeout
from mmengine.config import Config

from ..engine.files import AtomicLocalBackend
from ..version import __version__


class ExperimentFolder:
    """``--out``. A folder belongs to one experiment with one set of settings.

    ``settings.json``; ``arms/NAME_seed_K/`` with ``config.py``, ``train.log``, what training
    writes, ``seconds.json`` and in the end ``machine.json`` and ``numbers.json``; ``table.md``,
    ``plot.png`` and ``results.json``. It may be moved.
    """

    def __init__(self, path: str):
        self.path = Path(path).resolve()

    def run(self, name: str) -> Path:
        """The work folder of an arm with one seed."""
        words = ''.join(c if c.isalnum() or c in '.-' else ' ' for c in name).split()
        return self.path / 'arms' / '_'.join(words)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, no other process works here. The lock of one that was killed is free.

        Raises:
            RuntimeError: another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / '.lock', timeout=0):
                yield
        except Timeout:
            raise RuntimeError(
                f'another process works in {self.path}; wait until it ends, or give another --out'
            ) from None

    def claim(self, settings: Mapping[str, Any], configs: Mapping[str, Config]) -> None:
        """Write the settings and the runs' configs; a folder that has these settings is gone on
        with, and may get more seeds.

        Raises:
            ValueError: the folder was begun with other settings; says which.
        """
        text = json.dumps(settings, default=str, indent=1).replace(str(self.path), '<out>')
        path = self.path / 'settings.json'
        changed = _differences(read_json(path), json.loads(text)) if path.exists() else []
        if changed:
            raise ValueError(
                f'{self.path} was begun with other settings: {"; ".join(changed)}. Give '
                'another --out, or the settings of before'
            )
        for name, config in configs.items():
            self.run(name).mkdir(parents=True, exist_ok=True)
            config.dump(str(self.run(name) / 'config.py'))
        write(path, text)

    def finished(self, name: str) -> bool:
        """Whether a run is trained and read."""
        return (self.run(name) / 'numbers.json').exists()

    def numbers(self, name: str) -> dict[str, Any]:
        """What was read of a finished run."""
        return read_json(self.run(name) / 'numbers.json')

    def machine(self, name: str) -> dict[str, Any]:
        """What a finished run was read on."""
        return read_json(self.run(name) / 'machine.json')

    def seconds(self, name: str) -> float:
        """Wall clock of a run's processes so far."""
        path = self.run(name) / 'seconds.json'
        return read_json(path)['seconds'] if path.exists() else 0.0

    def add_seconds(self, name: str, seconds: float) -> None:
        """Of one process."""
        record = dict(seconds=self.seconds(name) + seconds)
        write(self.run(name) / 'seconds.json', json.dumps(record))


def write_numbers(work_dir: Path, numbers: Mapping[str, Any]) -> None:
    """By which a run is finished; with them the machine this runs on."""
    write(work_dir / 'machine.json', json.dumps(this_machine(), indent=1))
    write(work_dir / 'numbers.json', json.dumps(numbers, indent=1))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, text: str) -> None:
    """A file that is at all times the old one or the new one."""
    AtomicLocalBackend().put(text.encode(), str(path))


def this_machine() -> dict[str, Any]:
    """What a reader must know to compare numbers."""
    info = Path('/proc/cpuinfo')  # where Linux tells the model of the processor
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return dict(
        processor=models[0] if models else platform.machine(),
        cores=os.cpu_count(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmcv=mmcv.__version__,
        mmpretrain=mmpretrain.__version__,
        mmpsbn=__version__,
    )


def _differences(before: Any, now: Any, place: str = '') -> list[str]:
    """``place: before -> now`` of each leaf that differs."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f'{place}: {before!r} -> {now!r}']
    none = '(nothing)'
    return [
        line
        for key in dict.fromkeys([*before, *now])
        for line in _differences(
            before.get(key, none), now.get(key, none), f'{place}.{key}'.lstrip('.')
        )
    ]
