"""Trains the arms of an experiment, several at a time, and goes on with those that were begun."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ..analysis.logs import progress
from ..commands import launch
from .folder import ExperimentFolder, write_numbers
from .measure import MEASURES
from .trained import TrainedArm

_REPORT_SECONDS = 60.0
# a third of the processor time of a short run; what is not installed is passed over
_IMPORTED_BY_EVERY_RUN = (
    'torchvision',
    'matplotlib.pyplot',
    'mmdet.models',
    'mmpretrain.models',
    'mmpretrain.datasets',
)
# Threads of OpenMP spin at the end of each operation until all have come. Where other processes
# have their cores, that is long: a step took 21.6 s. Read when torch is imported.
_OPENMP_THAT_WAITS = dict(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')


def default_jobs() -> int:
    """One arm a processor core; one at a time on a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def train_runs(
    folder: ExperimentFolder,
    runs: Mapping[str, str | None],
    *,
    measures: list[str],
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Train and read those runs that are not finished, each in a process of its own.

    A run goes on from its newest checkpoint. When one fails the others are trained to their
    end, but for those that start from it.

    Args:
        runs: name -> the one of which it starts from the net, if any.
        measures: what is read of each, see :data:`.measure.MEASURES`.
        jobs: at a time, each with its share of the cores, at most ``OMP_NUM_THREADS``.
        say: is given lines about the progress.

    Raises:
        RuntimeError: runs failed; names them and their logs.
        KeyboardInterrupt: passed on when all processes have ended.
    """
    # processes start from one that has imported what a training needs, and done nothing else
    for name, value in _OPENMP_THAT_WAITS.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__, *_IMPORTED_BY_EVERY_RUN])
    threads = min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // jobs))
    waiting = [name for name in runs if not folder.finished(name)]
    for name in runs:
        if name not in waiting:
            say(f'{name}: is trained')
    running: dict[str, tuple[BaseProcess, float]] = {}
    failed: list[str] = []

    def end(name: str) -> str:
        process, start = running.pop(name)
        process.join()
        seconds = time.monotonic() - start
        folder.add_seconds(name, seconds)
        if process.exitcode:
            failed.append(name)
        word = 'FAILED' if process.exitcode else 'finished'
        return f'{name}: {word} after {seconds / 60:.1f} min'

    last_report = time.monotonic()
    try:
        while True:
            ready = [n for n in waiting if not runs[n] or folder.finished(runs[n])]
            for name in ready[: jobs - len(running)]:
                waiting.remove(name)
                work_dir = folder.run(name)
                say(f'{name}: training in {work_dir}')
                arguments = work_dir, measures, threads
                process = context.Process(target=_train_and_read, args=arguments)
                process.start()
                running[name] = process, time.monotonic()
            if not running:
                break
            multiprocessing.connection.wait([p.sentinel for p, _ in running.values()], timeout=5)
            for name in [name for name, (p, _) in running.items() if not p.is_alive()]:
                say(end(name))
            if time.monotonic() - last_report > _REPORT_SECONDS:
                last_report = time.monotonic()
                for name in running:
                    say(f'{name}: {progress(folder.run(name))}')
    finally:  # an interruption, or nothing is left
        for process, _ in running.values():
            process.terminate()
        for name in list(running):
            end(name)
    if failed:
        logs = ', '.join(f'{name} ({folder.run(name) / "train.log"})' for name in failed)
        raise RuntimeError(f'training failed, see the end of the log: {logs}')


def _train_and_read(work_dir: Path, measures: list[str], threads: int) -> None:
    """The life of a run's process."""
    os.setsid()  # a Ctrl-C is passed on by the parent, once
    log = os.open(work_dir / 'train.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    cfg = launch.load_config(
        str(work_dir / 'config.py'), cfg_options=None, work_dir=str(work_dir), launcher='none'
    )
    launch.resume_from(cfg, 'auto')
    launch.ensure_pruned_checkpoint_hook(cfg)
    launch.exit_cleanly_on_sigterm()
    launch.build_runner(cfg).train()
    arm = TrainedArm(work_dir)
    write_numbers(work_dir, {name: MEASURES[name].read(arm) for name in measures})


def _end_with_parent() -> None:
    """Or a parent that was killed and is started again would train the same twice."""
    multiprocessing.parent_process().join()
    os._exit(1)
