"""Plant dead channels in one model of every family of the zoo, prune, and compare outputs.

Writes the table docs/prune_zoo.md. Each family runs in a process of its own; what is done is
kept in the work folder, so that an interrupted run goes on where it stopped.
"""

import argparse
import logging
import multiprocessing
import warnings
from pathlib import Path

import torch
from zoo.families import family_names
from zoo.measure import Row, measure
from zoo.table import load_row, markdown, save_row

ROOT = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/prune_zoo.md', help='the table')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/prune_zoo'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--timeout', type=float, default=300, help='seconds a family may take')
    parser.add_argument(
        '--only', nargs='+', metavar='FAMILY', help='measure these (again), like mmdet/atss'
    )
    parser.add_argument(
        '--again', choices=['failed', 'all'], help='measure these again, not only what is missing'
    )
    parser.add_argument('--list', action='store_true', help='print the families and stop')
    args = parser.parse_args()
    unknown = set(args.only or ()) - set(family_names())
    if unknown:
        parser.error(f'no such family: {", ".join(sorted(unknown))}; see --list')
    return args


def measure_here(family: str, seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    save_row(measure(family, seed), folder)


def measure_apart(family: str, args, folder: Path) -> Row:
    """In a process of its own: memory goes back, and a crash or a hang stays there."""
    process = multiprocessing.get_context('fork').Process(
        target=measure_here, args=(family, args.seed, folder), daemon=True
    )
    process.start()
    process.join(args.timeout)
    if process.is_alive():
        process.kill()
        save_row(Row(family, status=f'not done after {args.timeout:.0f} s'), folder)
    elif process.exitcode:
        save_row(Row(family, status=f'exit code {process.exitcode}'), folder)
    return load_row(family, folder)


def main():
    args = parse_args()
    folder = args.work_dir / f'seed_{args.seed}'
    families = family_names()
    if args.list:
        return print('\n'.join(families))
    rows = {family: load_row(family, folder) for family in families}

    def is_due(family: str) -> bool:
        if args.only:
            return family in args.only
        row = rows[family]
        return row is None or args.again == 'all' or (args.again == 'failed' and not row.passes)

    due = [family for family in families if is_due(family)]
    try:
        for i, family in enumerate(due, 1):
            row = rows[family] = measure_apart(family, args, folder)
            print(f'[{i}/{len(due)}] {family}: {row.status} ({row.seconds:.0f} s)', flush=True)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here')
    done = [row for row in rows.values() if row is not None]
    command = f'python tools/prune_zoo.py --seed {args.seed}'
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(markdown(done, command=command, seed=args.seed))
    print(f'{sum(row.passes for row in done)} of {len(done)} families pass; see {args.out}')


if __name__ == '__main__':
    main()
