"""Train a detector (mmdet config) or a classifier (mmpretrain config)."""

import argparse
import os

from mmengine.config import DictAction

import mmpsbn  # noqa: F401  (registers layers and hooks before the config is read)
from mmpsbn.commands import launch


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument('--amp', action='store_true', help='mixed precision (GPU only)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the newest in the work dir',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, for example train_cfg.max_epochs=1 or key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def prepare(args):
    cfg = launch.load_config(
        args.config, cfg_options=args.cfg_options, work_dir=args.work_dir, launcher=args.launcher
    )
    if args.amp:
        launch.use_amp(cfg)
    if args.auto_scale_lr:
        launch.scale_lr(cfg)
    if args.resume is not None:
        launch.resume_from(cfg, args.resume)
    launch.ensure_pruned_checkpoint_hook(cfg)
    launch.check_data_paths(cfg, splits=('train', 'val'))
    launch.prepare_cpu_ranks(cfg, args.launcher)
    return cfg


def main():
    args = parse_args()
    try:
        cfg = prepare(args)
    except (FileNotFoundError, ValueError) as error:
        launch.exit_with(error)
    launch.exit_cleanly_on_sigterm()
    launch.build_runner(cfg).train()
    launch.close_ranks()


if __name__ == '__main__':
    main()
