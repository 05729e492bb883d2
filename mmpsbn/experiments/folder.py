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
from .experiment import Arm

_NUMBERS, _MACHINE = 'numbers.json', 'machine.json'


class ExperimentFolder:
    """``--out``. A folder belongs to one experiment with one set of settings.

    ``settings.json``; ``arms/NAME/`` with ``config.py``, ``train.log``, what training writes,
    ``seconds.json`` and in the end ``machine.json`` and ``numbers.json``; ``table.md``,
    ``plot.png`` and ``results.json``. It may be moved.
    """

    def __init__(self, path: str):
        self.path = Path(path).resolve()

    def arm(self, arm: Arm) -> Path:
        """The work folder of an arm."""
        return self.path / 'arms' / arm.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, no other process works here. The lock of one that was killed is free.

        Raises:
            RuntimeError: another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / '.lock')
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RuntimeError(
                f'another process works in {self.path}; wait until it ends, or give another --out'
            ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, settings: Mapping[str, Any], configs: Mapping[Arm, Config]) -> None:
        """Write the settings and the arms' configs; a folder that has them is gone on with.

        Raises:
            ValueError: the folder was begun with other settings; says which.
        """
        settings = dict(settings, arms={arm.name: c.to_dict() for arm, c in configs.items()})
        text = json.dumps(settings, default=str, indent=1).replace(str(self.path), '<out>')
        path = self.path / 'settings.json'
        if path.exists():
            changed = _differences(_read_json(path), json.loads(text))
            if changed:
                raise ValueError(
                    f'{self.path} was begun with other settings: {"; ".join(changed)}. Give '
                    'another --out, or the settings of before'
                )
        for arm, config in configs.items():
            self.arm(arm).mkdir(parents=True, exist_ok=True)
            config.dump(str(self.arm(arm) / 'config.py'))
        _write(path, text)

    def finished(self, arm: Arm) -> bool:
        """Whether an arm is trained and read."""
        return (self.arm(arm) / _NUMBERS).exists()

    def numbers(self, arm: Arm) -> dict[str, Any]:
        """What was read of a finished arm."""
        return _read_json(self.arm(arm) / _NUMBERS)

    def machine(self, arm: Arm) -> dict[str, Any]:
        """On which a finished arm was trained, at the end at least."""
        return _read_json(self.arm(arm) / _MACHINE)

    @staticmethod
    def write_numbers(work_dir: Path, numbers: Mapping[str, Any]) -> None:
        """By which an arm is finished; with them the machine this runs on."""
        _write(work_dir / _MACHINE, json.dumps(_this_machine(), indent=1))
        _write(work_dir / _NUMBERS, json.dumps(numbers, indent=1))

    def seconds(self, arm: Arm) -> float:
        """Wall clock of an arm's processes so far."""
        path = self.arm(arm) / 'seconds.json'
        return _read_json(path)['seconds'] if path.exists() else 0.0

    def add_seconds(self, arm: Arm, seconds: float) -> None:
        """Of one process."""
        record = dict(seconds=self.seconds(arm) + seconds)
        _write(self.arm(arm) / 'seconds.json', json.dumps(record))

    def write(self, name: str, text: str) -> None:
        """A file of results, at all times the old one or the new one."""
        _write(self.path / name, text)


def _this_machine() -> dict[str, Any]:
    """What a reader must know to compare numbers."""
    return dict(
        processor=_processor(),
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


def _processor() -> str:
    """Its model where Linux tells it."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return models[0] if models else platform.machine()


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def _write(path: Path, text: str) -> None:
    AtomicLocalBackend().put(text.encode(), str(path))


def _differences(before: Any, now: Any, place: str = '') -> list[str]:
    """``place: before -> now`` of each leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [
            line
            for key in keys
            for line in _differences(
                before.get(key, '(nothing)'),
                now.get(key, '(nothing)'),
                f'{place}.{key}'.lstrip('.'),
            )
        ]
    return [] if before == now else [f'{place}: {before!r} -> {now!r}']
