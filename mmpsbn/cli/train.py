"""Train a detector (mmdet config) or a classifier (mmpretrain config)."""

import argparse
from collections.abc import Sequence

from ..commands import launch
from ..commands.data_paths import check_data_paths
from .arguments import add_config, add_config_options, add_ranks, export_local_rank


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument('--amp', action='store_true', help='mixed precision (GPU only)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--load-from', metavar='CHECKPOINT', help='begin with these weights, pruned or not'
    )
    start.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the newest in the work dir',
    )
    add_config_options(parser, 'train_cfg.max_epochs=1', 'key="[a,b]"')
    add_ranks(parser)
    args = parser.parse_args(argv)
    export_local_rank(args)
    return args


def prepare(args: argparse.Namespace):
    cfg = launch.load_config(
        args.config, cfg_options=args.cfg_options, work_dir=args.work_dir, launcher=args.launcher
    )
    if args.amp:
        launch.use_amp(cfg)
    if args.auto_scale_lr:
        launch.scale_lr(cfg)
    if args.load_from is not None:
        launch.load_from(cfg, args.load_from)
    if args.resume is not None:
        launch.resume_from(cfg, args.resume)
    launch.ensure_pruned_checkpoint_hook(cfg)
    check_data_paths(cfg, splits=('train', 'val'))
    launch.prepare_cpu_ranks(cfg, args.launcher)
    return cfg


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        cfg = prepare(args)
    except (FileNotFoundError, ValueError) as error:
        launch.exit_with(error)
    launch.exit_cleanly_on_sigterm()
    try:
        launch.build_runner(cfg).train()
    except RuntimeError as error:
        if not launch.is_of_ranks(error):
            raise
        raise SystemExit(
            f'error: another rank has ended or does not answer ({launch.first_line(error)}); run '
            'the same command with --resume to go on from the last checkpoint'
        ) from None
    launch.close_ranks()
