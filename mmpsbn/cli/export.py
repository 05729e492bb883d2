"""Export a trained model, pruned or not: checkpoint, config and ONNX that need no hooks."""

import argparse
from collections.abc import Sequence

from ..commands import launch
from ..commands.export import export_model
from .arguments import add_config, add_config_options, command_line


def parse_args(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder for the files, named as the config'
    )
    parser.add_argument(
        '--fuse', action='store_true', help='fold each BatchNorm into the convolution before it'
    )
    parser.add_argument('--onnx', action='store_true', help='also write the raw outputs as ONNX')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="of ONNX and of the comparison; the test pipeline's size if left out",
    )
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.input_size is not None and min(args.input_size) < 1:
        parser.error(f'--input-size must be >= 1, got {args.input_size}')
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    try:
        cfg = launch.load_config(args.config, cfg_options=args.cfg_options)
        launch.existing(args.checkpoint)
        result = export_model(
            cfg,
            args.checkpoint,
            out_dir=args.out,
            fuse=args.fuse,
            onnx=args.onnx,
            input_size=args.input_size,
            force=args.force,
        )
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        launch.exit_with(error)
    print(
        f'{result.params:,} parameters; {result.fused} BatchNorms folded into convolutions.\n'
        f'Built again from the files, the model gives the original outputs within '
        f'{result.error:.1e} of their maximum.\n'
        f'  {result.config}  ({"imports mmpsbn" if result.needs_mmpsbn else "needs no mmpsbn"})\n'
        f'  {result.checkpoint}'
    )
    if result.onnx:
        print(
            f'  {result.onnx}  (N x {" x ".join(map(str, result.image))}, normalised; '
            f"onnxruntime gives PyTorch's outputs within {result.onnx_error:.1e} of their maximum)"
        )
    print('Next:\n  ' + command_line('test', result.config, result.checkpoint))
