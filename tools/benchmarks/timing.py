"""How the benchmarks measure: side by side, round by round, with torch.utils.benchmark."""

import argparse
import functools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from mmpsbn.experiments.folder import this_machine
from mmpsbn.experiments.tables import markdown

FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of ratios, one a round."""

    median: float
    q1: float
    q3: float

    def __str__(self):
        return f'{self.median:.3f} [{self.q1:.3f}, {self.q3:.3f}]'


@dataclass(frozen=True)
class Bench:
    """How to measure."""

    rounds: int  # in each of which every candidate is timed once
    min_seconds: float  # for which a candidate is repeated within a round; at least once
    seed: int  # of the order within a round, and of weights and data
    clock: Callable[[], float]  # seconds, of the wall (a GPU has finished then) or the processor

    def side_by_side(self, candidates: Mapping[str, Callable]) -> dict[str, list[float]]:
        """Median seconds of each candidate in each round.

        What else happens on the machine hits all candidates of a round alike, and a ratio taken
        within the round survives it. The order is drawn anew for each round: the memory that one
        candidate leaves behind is not always the same neighbour's. An untimed run comes first.
        """
        timers = {
            name: Timer('run()', globals=dict(run=run), timer=self.clock, num_threads=threads())
            for name, run in candidates.items()
        }
        order, shuffle = list(timers), random.Random(self.seed).shuffle
        seconds: dict[str, list[float]] = {name: [] for name in timers}
        for _ in range(self.rounds):
            shuffle(order)
            for name in order:
                measured = timers[name].blocked_autorange(min_run_time=self.min_seconds)
                seconds[name].append(measured.median)
        return seconds


def threads() -> int:
    return torch.get_num_threads()


def ratio(seconds: Mapping[str, Sequence[float]], name: str, baseline: str) -> Ratio:
    """Of ``name`` over ``baseline``, round by round."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[baseline])]
    if len(ratios) == 1:
        return Ratio(*ratios * 3)
    q1, median, q3 = statistics.quantiles(ratios, n=4, method='inclusive')
    return Ratio(median, q1, q3)


def parser(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """With the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=rounds, help=f'default: {rounds}')
    parser.add_argument('--min-seconds', type=float, default=0.2, help='of a candidate in a round')
    parser.add_argument('--threads', type=int, help="default: torch's own choice")
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='measure processor time, not wall-clock time: for a machine that other jobs share; '
        'with --threads 1, since waiting threads count too; not with a GPU',
    )
    parser.add_argument('--seed', type=int, default=0)
    return parser


def begin(args: argparse.Namespace) -> Bench:
    """Set the threads, print what a reader must know to compare numbers."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    has_gpu = torch.cuda.is_available()
    if args.cpu_time and has_gpu:
        raise SystemExit(
            '--cpu-time does not see what a GPU does: hide it with CUDA_VISIBLE_DEVICES= or leave '
            '--cpu-time out'
        )
    known = dict(clock='processor' if args.cpu_time else 'wall', seed=args.seed) | this_machine()
    print(', '.join(f'{key}: {value}' for key, value in known.items()), flush=True)
    clock = time.process_time if args.cpu_time else functools.partial(wall_clock, has_gpu)
    return Bench(args.rounds, args.min_seconds, args.seed, clock)


def wall_clock(has_gpu: bool) -> float:
    if has_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def milliseconds(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """In markdown, between blank lines: what stands right behind a table would be a row of it."""
    print(f'\n{markdown([*map(str, head)], *([*map(str, row)] for row in rows))}\n', flush=True)
