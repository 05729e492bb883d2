"""Run an experiment of the papers: train its arms, write table, picture and numbers."""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from ..commands.launch import exit_with
from ..experiments import EXPERIMENTS
from ..experiments.reproduce import reproduce
from ..experiments.scales import SCALES
from ..experiments.training import default_jobs

_SMOKE = 'smoke only checks that everything runs: its numbers mean nothing'


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    experiments = '\n'.join(f'  {name}: {e.shows}' for name, e in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog=f'experiments:\n{experiments}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', choices=list(EXPERIMENTS), metavar='NAME', help='see below')
    parser.add_argument('--scale', choices=SCALES, required=True, help=_SMOKE)
    parser.add_argument(
        '--out', required=True, help='folder of the results; the command goes on with a begun one'
    )
    parser.add_argument('--data', help='folder of the data; default: that of the scale')
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0],
        metavar='SEED',
        help='every arm is trained once with each seed, which decides weights, order and '
        'augmentation; subsets of the data and shuffled labels do not depend on it. More seeds can '
        'be added to a folder later',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=default_jobs(),
        help='trainings at a time; default: one a core, 1 on a GPU',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    if args.jobs < 1:
        exit_with(f'--jobs must be >= 1, got {args.jobs}')
    twice = sorted({seed for seed in args.seeds if args.seeds.count(seed) > 1})
    if twice:
        exit_with(f'--seeds names {twice[0]} twice: a second training with it shows nothing new')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a Ctrl-C
    try:
        reproduce(
            args.name,
            EXPERIMENTS[args.name],
            scale=args.scale,
            out=args.out,
            data=args.data,
            seeds=args.seeds,
            jobs=args.jobs,
            say=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError, RuntimeError) as error:
        exit_with(error)
    except KeyboardInterrupt:
        raise SystemExit(
            'interrupted; the same command goes on from the last checkpoints'
        ) from None
    print(f'\n{(Path(args.out) / "table.md").read_text()}')
    if args.scale == 'smoke':
        print(f'Scale {_SMOKE}.')
