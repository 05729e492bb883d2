"""Test a detector (mmdet config) or a classifier (mmpretrain config), pruned or not."""

import argparse
from collections.abc import Sequence

from ..commands import launch
from ..commands.data_paths import check_data_paths
from .arguments import add_config, add_config_options, add_ranks, export_local_rank


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--work-dir', help='where the metrics go')
    parser.add_argument('--out', help='also write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='write pictures with predictions into this folder of the run'
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds each window stays')
    add_config_options(parser, 'test_dataloader.batch_size=4', 'key="[a,b]"')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_ranks(parser)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    export_local_rank(args)
    return args


def prepare(args: argparse.Namespace):
    cfg = launch.load_config(
        args.config, cfg_options=args.cfg_options, work_dir=args.work_dir, launcher=args.launcher
    )
    launch.load_from(cfg, args.checkpoint)
    if args.show or args.show_dir is not None:
        launch.show_predictions(
            cfg, show=args.show, show_dir=args.show_dir, wait_time=args.wait_time
        )
    launch.ensure_pruned_checkpoint_hook(cfg)
    check_data_paths(cfg, splits=('test',))
    if args.tta:
        launch.use_tta(cfg)
    launch.prepare_cpu_ranks(cfg, args.launcher)
    return cfg


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        cfg = prepare(args)
    except (FileNotFoundError, ValueError) as error:
        launch.exit_with(error)
    runner = launch.build_runner(cfg)
    if args.out is not None:
        launch.dump_predictions(runner, args.out)
    runner.test()
    launch.close_ranks()
