"""Pictures of training logs: loss, scores and sparsity over iterations, of one run or several."""

import argparse
from collections.abc import Sequence

from ..analysis.log_plots import write_log_picture
from ..analysis.logs import read_runs
from ..commands import launch


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        'logs',
        nargs='+',
        metavar='LOG',
        help='<work_dir>/<timestamp>/vis_data/scalars.json, or a work dir for its newest log',
    )
    parser.add_argument('--out', required=True, metavar='FILE', help='.png or .html to write')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        write_log_picture(read_runs(args.logs), args.out)
    except (OSError, ValueError) as error:
        launch.exit_with(error)
    print(f'Wrote {args.out}')
