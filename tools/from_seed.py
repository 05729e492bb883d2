"""The full checkpoint of a model that was kept as seed and trained values (FreezeHook)."""

import argparse

from mmpsbn.cli.arguments import add_config, add_config_options, command_line
from mmpsbn.commands import launch
from mmpsbn.commands.model_files import load_seed_checkpoint, refuse_to_overwrite, save_weights


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='from_seed.pth of the work folder')
    parser.add_argument('--out', required=True, metavar='FILE', help='the full checkpoint')
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        cfg = launch.load_config(args.config, cfg_options=args.cfg_options)
        if not args.force:
            refuse_to_overwrite(args.out)
        save_weights(load_seed_checkpoint(cfg, args.checkpoint), args.out)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        launch.exit_with(error)
    print(f'Wrote {args.out}. Next:\n  ' + command_line('test', args.config, args.out))


if __name__ == '__main__':
    main()
