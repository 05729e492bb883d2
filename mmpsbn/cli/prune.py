"""Prune a trained checkpoint in one shot. The result is a checkpoint for the same config."""

import argparse
from collections.abc import Sequence
from dataclasses import fields

from mmengine.device import get_device

from ..commands import launch
from ..commands.data_paths import check_data_paths
from ..commands.prune import BUDGET_CRITERIA, PruneOptions, prune_checkpoint
from ..pruning.lossless import LOSSLESS_CRITERIA
from ..pruning.ranking import BUDGET_TOLERANCE, LIKED_MULTIPLES
from .arguments import add_config, add_config_options, command_line

# of PruneOptions, and what they are
_NUMBERS = dict(
    recalibrate='estimate the BatchNorm statistics anew on N batches of training data',
    num_samples='training images that are looked at: a dead channel is silent on all of them, and '
    'fisher and --reconstruct take their statistics from them',
    tolerance='largest change of the outputs that passes, relative to their maximum',
    seed='decides the order of the data, and what the criterion random chooses',
)


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint, pruned or not')
    parser.add_argument(
        '--criterion',
        default=PruneOptions.criterion,
        choices=LOSSLESS_CRITERIA + BUDGET_CRITERIA,
        help='dead and collapsed remove what does nothing, the others the least important '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--target-flops',
        type=float,
        metavar='F',
        help="fraction of the dense model's MACs to be left, for all but dead and collapsed",
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the checkpoint')
    for name, what in _NUMBERS.items():
        default = getattr(PruneOptions, name)
        how = dict(type=type(default), default=default, metavar='N')
        option = '--' + name.replace('_', '-')
        parser.add_argument(option, **how, help=f'{what} (default: %(default)s)')
    coarse, *finer = LIKED_MULTIPLES
    parser.add_argument(
        '--round-to',
        type=int,
        metavar='N',
        help=f'widths are multiples of this (default: {coarse}, or {", ".join(map(str, finer))} '
        f'where {coarse} does not come within {100 * BUDGET_TOLERANCE:g} %% of the budget; 1 for '
        'dead and collapsed)',
    )
    parser.add_argument(
        '--fold-padding',
        action='store_true',
        help='collapsed: fold constants also into zero-padded layers, inexact at the border '
        '(needs a larger --tolerance)',
    )
    parser.add_argument(
        '--reconstruct',
        action=argparse.BooleanOptionalAction,
        default=PruneOptions.reconstruct,
        help='of live channels: the channels that stay take over what a linear function of them '
        'predicts of those that go',
    )
    parser.add_argument('--device', default=get_device())
    parser.add_argument('--force', action='store_true', help='overwrite an existing checkpoint')
    add_config_options(parser, 'train_dataloader.batch_size=4')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        options = PruneOptions(**{f.name: getattr(args, f.name) for f in fields(PruneOptions)})
        cfg = launch.load_config(args.config, cfg_options=args.cfg_options)
        launch.existing(args.checkpoint)
        check_data_paths(cfg, splits=('train',))
        result = prune_checkpoint(
            cfg,
            args.checkpoint,
            options,
            out_dir=args.out,
            device=args.device,
            force=args.force,
        )
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        launch.exit_with(error)
    for layer, reason in result.skipped.items():
        print(f'left whole: {layer} ({reason})')
    print(result.table())
    then = ', before statistics were estimated anew' if args.recalibrate else ''
    kept = 'as before' if args.criterion in LOSSLESS_CRITERIA else 'as with these channels masked'
    print(
        f'{result.macs[1] / result.dense_macs:.1%} of the dense MACs are left, widths in multiples '
        f'of {result.round_to}; the outputs are {kept} within {result.relative_error:.1e} of their '
        f'maximum{then}.\n'
        f'Wrote {result.path}. Next:'
    )
    for words in (
        ('test', args.config, result.path),
        ('train', args.config, '--load-from', result.path),
        ('export', args.config, result.path, '--out', args.out),
    ):
        print('  ' + command_line(*words, *args.cfg_words))
