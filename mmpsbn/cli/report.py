"""Which filters of a model have collapsed, which are dead, what that costs and what to do: one
HTML page, and the same numbers as CSV and JSON."""

import argparse
from collections.abc import Sequence

from mmengine.device import get_device

from ..analysis.report import Settings, write_report
from ..analysis.report.arch import ArchSubject
from ..analysis.report.config import ConfigSubject
from ..commands import launch
from ..functional.activations import DEAD_EPS
from .arguments import add_config_options, command_line

_EPILOG = """
examples:
  %(prog)s configs/retinanet_psbn.py epoch_12.pth --data --out report
  %(prog)s configs/retinanet_psbn.py epoch_4.pth epoch_8.pth epoch_12.pth --out report
  %(prog)s --arch nets.py:resnet20 resnet20.pth --data nets.py:test_batches --out report
"""


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'paths',
        nargs='*',
        metavar='CONFIG CKPT',
        help='config, then its checkpoints in the order of training; with --arch checkpoints '
        'alone, or none for the model as it is built',
    )
    parser.add_argument(
        '--arch', metavar='FILE:CALLABLE', help='returns an nn.Module, in place of a config'
    )
    parser.add_argument(
        '--data',
        nargs='?',
        const='',
        metavar='FILE:CALLABLE',
        help="look at activations and scores on the config's test data; with --arch on the "
        'batches (inputs, labels) that the callable returns',
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the files')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs='+',
        metavar='N',
        help='HEIGHT WIDTH, or the whole shape of a sample, to trace and count FLOPs on; by '
        'default that of the test pipeline or of --data',
    )
    parser.add_argument(
        '--thresholds',
        type=float,
        nargs='+',
        default=[1e-3, 1e-2, 0.05, 0.1],
        metavar='T',
        help='on |gamma|; the first is what counts as collapsed (default: %(default)s)',
    )
    parser.add_argument(
        '--eps',
        type=float,
        default=DEAD_EPS,
        help='largest |a| of a dead channel (default: %(default)s)',
    )
    parser.add_argument(
        '--num-samples',
        type=int,
        default=2048,
        metavar='N',
        help='samples for activations; scores are of all the data (default: %(default)s)',
    )
    parser.add_argument(
        '--no-score',
        dest='score',
        action='store_false',
        help='with --data: leave out the scores with filters clamped, which take as many tests',
    )
    parser.add_argument('--device', default=get_device())
    parser.add_argument('--force', action='store_true', help='overwrite a report')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.arch is None and len(args.paths) < 2:
        parser.error('give a config and one or more of its checkpoints, or --arch FILE:CALLABLE')
    if args.arch is not None and args.data == '':
        parser.error('--data needs FILE:CALLABLE with --arch, which has no data of its own')
    if args.arch is None and args.data:
        parser.error(f'--data takes no value with a config, got {args.data!r}; put it last')
    if args.input_size is not None and min(args.input_size) < 1:
        parser.error(f'--input-size must be >= 1, got {args.input_size}')
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        settings = Settings(tuple(args.thresholds), args.eps, args.num_samples, args.score)
        how = dict(input_size=args.input_size, device=args.device)
        if args.arch is not None:
            command, checkpoints = None, args.paths
            subject = ArchSubject(args.arch, data=args.data, **how)
        else:
            config, *checkpoints = args.paths
            cfg = launch.load_config(config, cfg_options=args.cfg_options)
            subject = ConfigSubject(cfg, use_data=args.data is not None, **how)
            words = ('prune', config, checkpoints[-1], '--criterion', 'dead', '--out', 'pruned')
            command = command_line(*words, *args.cfg_words)
        for checkpoint in checkpoints:
            launch.existing(checkpoint)
        files = write_report(
            subject,
            checkpoints,
            settings,
            out_dir=args.out,
            force=args.force,
            prune_command=command,
        )
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        launch.exit_with(error)
    print('Wrote ' + ', '.join(map(str, files)))
