"""Floor 7: the console command ``mmpsbn``. One module a command: its options and one call down."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ..version import __version__

COMMANDS = dict(
    train='train a detector or a classifier',
    test='test one, pruned or not',
    prune='prune a trained checkpoint in one shot',
    export='write a trained model as checkpoint, config and ONNX that need no hooks',
    report='write a page that says which filters are dead or collapsed, and what to do',
    plot='draw loss, scores and sparsity from the logs of trainings',
    reproduce='run an experiment of the papers',
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmpsbn COMMAND [arguments]``; the modules of the other commands are not imported."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog='mmpsbn',
        description='Finetune detectors that keep their filters, or lose those they do not need.',
        epilog='mmpsbn COMMAND --help says what a command takes.',
    )
    parser.add_argument('--version', action='version', version=f'mmpsbn {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    command = parser.parse_args(argv[:1]).command
    import_module(f'.{command}', __name__).main(argv[1:], prog=f'mmpsbn {command}')
