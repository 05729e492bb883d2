"""How the benchmarks measure: side by side, round by round, in one process."""

import json
import platform
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

clock = time.perf_counter  # one clock for all; a test puts its own here


def add_arguments(parser) -> None:
    """The arguments that every benchmark has."""
    parser.add_argument('--threads', type=int, help="default: torch's own choice")
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='measure processor time, not wall-clock time: for a machine that other jobs share; '
        'with --threads 1, since waiting threads count too; not with a GPU',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', metavar='OUT', help='write the same numbers here')


def set_up(args) -> None:
    """Threads and clock as the arguments say."""
    global clock
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.cpu_time:
        if torch.cuda.is_available():
            raise SystemExit(
                '--cpu-time does not see what a GPU does: '
                'hide it with CUDA_VISIBLE_DEVICES= or leave --cpu-time out'
            )
        clock = time.process_time


def interleave(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int, seed: int
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; ``times[name][r]`` belongs to round r.

    A round runs every candidate once, so that what else happens on the machine hits all of them
    alike and a ratio taken within a round survives it. The order is drawn anew for each round: the
    memory that one candidate leaves behind is not always the same neighbour's. ``warmup`` rounds
    come first and are dropped.
    """
    order, shuffle = list(candidates), random.Random(seed).shuffle
    times = {name: [] for name in candidates}
    for r in range(warmup + rounds):
        shuffle(order)
        for name in order:
            start = clock()
            candidates[name]()
            if r >= warmup:
                times[name].append(clock() - start)
            else:
                clock()
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles (linear between neighbours)."""
    if len(values) == 1:
        return dict(median=values[0], q1=values[0], q3=values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method='inclusive')
    return dict(median=median, q1=q1, q3=q3)


def ratio(times: Mapping[str, Sequence[float]], name: str, baseline: str) -> dict[str, float]:
    """Spread of the ratios ``name`` / ``baseline`` taken round by round."""
    return spread([a / b for a, b in zip(times[name], times[baseline])])


class Stopwatch:
    """Adds up the seconds spent in the functions it wraps, by name.

    Args:
        synchronize: waits for the device, before and after each call.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None):
        self._synchronize = synchronize
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable) -> Callable:

        def wrapper(*args, **kwargs):
            self._synchronize()
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._synchronize()
                self._seconds[name] += clock() - start

        return wrapper

    def lap(self) -> dict[str, float]:
        """Seconds by name since the last lap."""
        lap, self._seconds = dict(self._seconds), defaultdict(float)
        return lap


def device_synchronizer(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == 'cuda' else lambda: None


def describe_machine(args) -> dict[str, object]:
    """What a reader must know to compare numbers."""
    info = dict(
        cpu=_cpu_model(),
        threads=torch.get_num_threads(),
        clock='processor' if args.cpu_time else 'wall',
        seed=args.seed,
        torch=torch.__version__,
        python=platform.python_version(),
    )
    if torch.cuda.is_available():
        info['gpu'] = torch.cuda.get_device_name()
    return info


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(':')[1].strip() for line in lines if line.startswith('model name')),
        platform.machine(),
    )


def print_machine(machine: Mapping[str, object]) -> None:
    print(', '.join(f'{key}: {value}' for key, value in machine.items()), flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        print(
            '  '.join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
        )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = ['---', *('---:' for _ in head[1:])]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, line, *rows))


def write_json(path, report) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(report, indent=1) + '\n')
