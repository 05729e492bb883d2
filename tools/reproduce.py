"""Run an experiment of the papers: train its arms, write table, picture and numbers."""

import argparse
import signal
from pathlib import Path

import mmpsbn  # noqa: F401  (registers layers and hooks before the configs are read)
from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.reproduce import reproduce
from mmpsbn.experiments.scales import SCALES
from mmpsbn.experiments.training import default_jobs

TOOLS = Path(__file__).resolve().parent


def parse_args():
    experiments = '\n'.join(f'  {name}: {e.shows}' for name, e in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f'experiments:\n{experiments}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', choices=list(EXPERIMENTS))
    parser.add_argument('--scale', choices=SCALES, required=True)
    parser.add_argument(
        '--out', required=True, help='folder of the results; one that was begun is gone on with'
    )
    parser.add_argument('--data', help='folder of the data; default: that of the scale')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='of the weights, the order and the augmentation; '
        'subsets of the data and shuffled labels are the same with each',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        help='arms at a time; default: one a core, 1 on a GPU',
    )
    args = parser.parse_args()
    if args.jobs is None:
        args.jobs = default_jobs()
    return args


def main():
    args = parse_args()
    if args.jobs < 1:
        raise SystemExit(f'error: --jobs must be >= 1, got {args.jobs}')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a Ctrl-C
    try:
        reproduce(
            EXPERIMENTS[args.name],
            scale=args.scale,
            out=args.out,
            data=args.data,
            seed=args.seed,
            jobs=args.jobs,
            configs=TOOLS.parent / 'configs',
            say=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        raise SystemExit(
            'interrupted; the same command goes on from the last checkpoints'
        ) from None
    print(f'\n{(Path(args.out) / "table.md").read_text()}')


if __name__ == '__main__':
    main()
