"""The full checkpoint of a model that was kept as seed and trained values (FreezeHook)."""

import argparse
import shlex

from mmengine.config import DictAction

import mmpsbn  # noqa: F401  (registers layers and models before the config is read)
from mmpsbn.commands import launch
from mmpsbn.commands.model_files import load_seed_checkpoint, refuse_to_overwrite, save_weights


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='from_seed.pth of the work folder')
    parser.add_argument('--out', required=True, metavar='FILE', help='the full checkpoint')
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        cfg = launch.load_config(
            args.config, cfg_options=args.cfg_options, work_dir=None, launcher='none'
        )
        if not args.force:
            refuse_to_overwrite(args.out)
        save_weights(load_seed_checkpoint(cfg, args.checkpoint), args.out)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        launch.exit_with(error)
    command = shlex.join(['python', 'tools/test.py', args.config, args.out])
    print(f'Wrote {args.out}. Next:\n  {command}')


if __name__ == '__main__':
    main()
