"""The papers' experiments at their batch and width, as far as the time goes; the next run in the
same folder goes on from the checkpoints."""

import signal
import subprocess
import sys
from pathlib import Path

from .checks import Found, Part, Setup, Skip, child_environment, needs_digits, require

PAPERS = Part()
_RESERVE = 15.0  # seconds, for the checkpoints of what is stopped, and the page
_LEAST = 15.0
_PICKLES = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch', 'batches.meta']


@PAPERS.check(quick=None, whole=_LEAST + _RESERVE)
def psbn_rounds(setup: Setup) -> Found:
    """Figure 3 of the psBN paper: ResNet-20, nine rounds of 100 epochs."""
    return _go_on(setup, 'psbn-rounds', share=0.5)


@PAPERS.check(quick=None, whole=_LEAST + _RESERVE)
def demp_tradeoff(setup: Setup) -> Found:
    """Figure 3 of the DemP paper: ResNet-18, 250 epochs."""
    return _go_on(setup, 'demp-tradeoff', share=1.0)


def _go_on(setup: Setup, name: str, *, share: float) -> Found:
    """Train for a share of the time that is left."""
    if not setup.on_gpu:
        needs_digits()
    elif setup.data is None or not _has_cifar10(Path(setup.data)):
        raise Skip('--data names no folder of CIFAR-10, and nothing is fetched')
    out = setup.folder / 'papers' / name
    scale = 'paper' if setup.on_gpu else 'smoke'
    command = [sys.executable, '-m', 'mmpsbn', 'reproduce', name, '--scale', scale]
    command += [
        '--out',
        str(out),
        '--seed',
        str(setup.seed),
        '--jobs',
        '3' if setup.on_gpu else '1',
    ]
    command += ['--data', setup.data] if setup.data else []
    log = setup.folder / f'{name}.log'
    with log.open('w') as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=child_environment())
        code = _wait(process, share * (setup.left - _RESERVE))
    require(code in (0, None), f'it ended with {code}; the end of {log}: {_last_line(log)}')
    rows = [[arm.name, *_progress(arm)] for arm in sorted(out.glob('arms/*'))]
    said = 'done' if code == 0 else 'stopped by the time; the next run goes on'
    return Found(f'scale {scale}: {said}', ['arm', 'epochs', 'minutes in all'], rows)


def _has_cifar10(folder: Path) -> bool:
    """Whether all of it is there, so that mmpretrain has nothing to download."""
    pickles = folder / 'cifar-10-batches-py'
    in_folders = all((folder / split).is_dir() for split in ('train', 'test'))
    return in_folders or all((pickles / name).is_file() for name in _PICKLES)


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, or None for a process that was stopped with SIGTERM, as it is meant to be."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    finally:
        if process.poll() is None:
            try:
                process.wait(_RESERVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return None


def _progress(arm: Path) -> tuple[str, str]:
    """Epochs that a checkpoint has, and the time so far."""
    from mmpsbn.experiments.folder import ExperimentFolder

    last = arm / 'last_checkpoint'
    epochs = Path(last.read_text().strip()).stem.rpartition('_')[2] if last.exists() else '0'
    seconds = ExperimentFolder(str(arm.parents[1])).seconds(arm.name)
    return epochs, f'{seconds / 60:.1f}'


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else 'nothing'
