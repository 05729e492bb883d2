"""What a check is, and how many of them are made in the time there is."""

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


class Skip(Exception):
    """A check cannot be made here; says why."""


class TimeIsUp(Exception):
    """A check has used up what was left of the time."""


@dataclass(frozen=True)
class Setup:
    """What the checks are made with.

    Attributes:
        device: ``'cuda'`` or ``'cpu'``; on the CPU, where it is the script that is tested, the
            models are a fraction of the size.
        quick: fewer steps, and only what needs seconds.
        folder: for what they write.
        data: folder of CIFAR-10; None without.
        deadline: of all of them, by ``time.monotonic()``.
    """

    device: str
    quick: bool
    seed: int
    folder: Path
    data: str | None
    deadline: float

    @property
    def on_gpu(self) -> bool:
        return self.device == 'cuda'

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Found:
    """What a check has to say: a sentence, and perhaps a table."""

    text: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


@dataclass(frozen=True)
class Check:
    """
    Attributes:
        run: raises :class:`Skip`, or anything else where it fails.
        shows: in words.
        quick, whole: seconds without which it is not begun; None: it is left out.
    """

    name: str
    run: Callable[[Setup], Found]
    shows: str
    quick: float | None
    whole: float | None


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        verdict: 'passed', 'failed' or 'skipped'.
        trace: of the exception, where it failed.
    """

    name: str
    shows: str
    verdict: str
    found: Found
    seconds: float
    trace: str = ''


class Part(list):
    """Checks in their order, collected with the decorator :meth:`check`."""

    def check(self, *, quick: float | None, whole: float | None):
        def add(function):
            name = function.__name__.replace('_', ' ')
            self.append(Check(name, function, function.__doc__, quick, whole))
            return function

        return add


def perform(check: Check, setup: Setup) -> Outcome:
    """Make a check, whatever comes of it."""
    start, needed = time.monotonic(), check.quick if setup.quick else check.whole
    verdict, trace = 'skipped', ''
    if needed is None:
        found = Found('left out of a quick run')
    elif needed > setup.left:
        found = Found(f'it needs about {needed:g} s, and {max(setup.left, 0):.0f} s are left')
    else:
        try:
            with _settings_kept(), _time_limit(setup.left):
                verdict, found = 'passed', check.run(setup)
        except Skip as why:
            verdict, found = 'skipped', Found(str(why))
        except Exception as error:  # the page says it, and the next one is made
            verdict, found = 'failed', Found(f'{type(error).__name__}: {error}')
            trace = traceback.format_exc()
        _free_memory()
    seconds = time.monotonic() - start
    return Outcome(check.name, check.shows, verdict, found, seconds, trace)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_):
        raise TimeIsUp(f'not done after {seconds:.0f} s, when the time was up')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _settings_kept() -> Iterator[None]:
    """MMEngine makes a process deterministic, and never undoes it."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(False)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def child_environment(**changes: str) -> dict[str, str]:
    """For a process of Python that is to import this clone's mmpsbn."""
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths)) | changes


def require(fact: bool, otherwise: str) -> None:
    """Raises AssertionError with what is wrong."""
    if not fact:
        raise AssertionError(otherwise)


def mmcv_operations() -> str:
    """For what mmcv's operations are compiled: 'cuda', 'cpu', or 'nothing' where none load."""
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError:  # not built, or built for another torch
        return 'nothing'
    return 'cpu' if get_compiling_cuda_version() == 'not available' else 'cuda'


def needs_detector(*operations: str) -> None:
    """
    Args:
        operations: of which mmcv will do, 'cuda' or 'cpu'.

    Raises:
        Skip: no MMDetection, or mmcv has no such operations.
    """
    if find_spec('mmdet') is None:
        raise Skip('MMDetection is not installed')
    found = mmcv_operations()
    if found not in operations:
        raise Skip(f"it needs mmcv's operations for {' or '.join(operations)}: for {found} here")


def needs_digits() -> None:
    """Raises Skip without scikit-learn, which brings them."""
    if find_spec('sklearn') is None:
        raise Skip('scikit-learn is not installed')
