"""Arguments that several commands have, and how a command names the next one."""

import argparse
import os
import shlex
import shutil
import sys

from mmengine.config import DictAction


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'config', help="path of the config, or package::folder/name.py for an installed package's"
    )


def add_config_options(parser: argparse.ArgumentParser, *examples: str) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='override settings of the config'
        + (f', for example {" or ".join(examples)}' if examples else ''),
    )
    parser.set_defaults(cfg_words=[])


class _Options(DictAction):
    """Keeps the words too, for the next command: what they stand for cannot be written back."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.cfg_words = [option_string, *values]
        super().__call__(parser, namespace, values, option_string)


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )


def export_local_rank(args: argparse.Namespace) -> None:
    """Where MMEngine looks for it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def command_line(*words: str) -> str:
    """``mmpsbn WORD ...`` as the reader of a terminal can paste it: through this Python where
    the console command is not on the PATH."""
    program = ['mmpsbn'] if shutil.which('mmpsbn') else [sys.executable, '-m', 'mmpsbn']
    return shlex.join([*program, *words])
