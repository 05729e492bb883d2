"""Trains the arms of an experiment, several at a time, and goes on with those that were begun."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .experiment import Arm
from .folder import ExperimentFolder

_REPORT_SECONDS = 60.0


def default_jobs() -> int:
    """One arm a processor core, or one at a time on a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def train_arms(
    folder: ExperimentFolder,
    arms: Sequence[Arm],
    *,
    train_script: Path,
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Train those arms that are not finished, each in a process of its own.

    An arm goes on from its newest checkpoint. When one fails the others are trained to their end.

    Args:
        train_script: ``tools/train.py``.
        jobs: at a time, each with its share of the cores.
        say: is given lines about the progress.

    Raises:
        RuntimeError: arms failed; names them and their logs.
        KeyboardInterrupt: passed on when all processes have ended.
    """
    waiting = [arm for arm in arms if not folder.finished(arm)]
    for arm in arms:
        if arm not in waiting:
            say(f'{arm.name}: is trained')
    running: dict[Arm, tuple[subprocess.Popen, float]] = {}
    failed: list[Arm] = []
    last_report = time.monotonic()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                arm = waiting.pop(0)
                say(f'{arm.name}: training in {folder.arm(arm)}')
                running[arm] = _start(folder.arm(arm), train_script, threads), time.monotonic()
            time.sleep(0.2)
            for arm, (process, start) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[arm]
                seconds = time.monotonic() - start
                folder.note(arm, seconds, finished=process.returncode == 0)
                if process.returncode:
                    failed.append(arm)
                say(
                    f'{arm.name}: {"FAILED" if process.returncode else "trained"} '
                    f'after {seconds / 60:.1f} min'
                )
            if time.monotonic() - last_report > _REPORT_SECONDS:
                last_report = time.monotonic()
                for arm in running:
                    say(f'{arm.name}: {_progress(folder.arm(arm))}')
    except BaseException:
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for arm, (process, start) in running.items():
            process.wait()
            folder.note(arm, time.monotonic() - start, finished=False)
        raise
    if failed:
        logs = ', '.join(f'{arm.name} ({folder.arm(arm) / "train.log"})' for arm in failed)
        raise RuntimeError(f'training failed, see the end of the log: {logs}')


def _start(work_dir: Path, train_script: Path, threads: int) -> subprocess.Popen:
    command = [
        *(sys.executable, str(train_script), str(work_dir / 'config.py')),
        *('--work-dir', str(work_dir), '--resume'),
    ]
    with open(work_dir / 'train.log', 'ab') as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(OMP_NUM_THREADS=str(threads)),
            start_new_session=True,  # a Ctrl-C is passed on by us, once
        )


def _progress(work_dir: Path) -> str:
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = logs[-1].read_text().splitlines() if logs else []
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:  # half written
            continue
        if 'epoch' in record and 'loss' in record:
            return f'epoch {record["epoch"]}, loss {record["loss"]:.3f}'
    return 'starting'
