"""Test a detector (mmdet config) or a classifier (mmpretrain config), pruned or not."""

import argparse
import os

from mmengine.config import DictAction

import mmpsbn  # noqa: F401  (registers layers and hooks before the config is read)
from mmpsbn.commands import launch


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--work-dir', help='where the metrics go')
    parser.add_argument('--out', help='also write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='write pictures with predictions into this folder of the run'
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds each window stays')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, '
        'for example test_dataloader.batch_size=4 or key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def prepare(args):
    cfg = launch.load_config(
        args.config, cfg_options=args.cfg_options, work_dir=args.work_dir, launcher=args.launcher
    )
    launch.test_from(cfg, args.checkpoint)
    if args.show or args.show_dir is not None:
        launch.show_predictions(
            cfg, show=args.show, show_dir=args.show_dir, wait_time=args.wait_time
        )
    launch.ensure_pruned_checkpoint_hook(cfg)
    launch.check_data_paths(cfg, splits=('test',))
    if args.tta:
        launch.use_tta(cfg)
    launch.prepare_cpu_ranks(cfg, args.launcher)
    return cfg


def main():
    args = parse_args()
    try:
        cfg = prepare(args)
    except (FileNotFoundError, ValueError) as error:
        launch.exit_with(error)
    runner = launch.build_runner(cfg)
    if args.out is not None:
        launch.dump_predictions(runner, args.out)
    runner.test()
    launch.close_ranks()


if __name__ == '__main__':
    main()
