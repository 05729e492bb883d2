"""Export a trained model, pruned or not: checkpoint, config and ONNX that need no hooks."""

import argparse
import shlex

from mmengine.config import DictAction

import mmpsbn  # noqa: F401  (registers layers and models before the config is read)
from mmpsbn.commands import launch
from mmpsbn.commands.export import export_model


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args()
    if args.input_size is not None and min(args.input_size) < 1:
        parser.error(f'--input-size must be >= 1, got {args.input_size}')
    return args


def main():
    args = parse_args()
    try:
        cfg = launch.load_config(
            args.config, cfg_options=args.cfg_options, work_dir=None, launcher='none'
        )
        launch.test_from(cfg, args.checkpoint)
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
    height, width = result.input_size
    print(
        f'{result.params:,} parameters; {result.fused} BatchNorms folded into convolutions.\n'
        f'Built again from the files, the model gives the original outputs within '
        f'{result.error:.1e} of their maximum.\n'
        f'  {result.config}  ({"imports mmpsbn" if result.needs_mmpsbn else "needs no mmpsbn"})\n'
        f'  {result.checkpoint}'
    )
    if result.onnx:
        print(
            f'  {result.onnx}  (N x 3 x {height} x {width}, normalised; onnxruntime gives '
            f"PyTorch's outputs within {result.onnx_error:.1e} of their maximum)"
        )
    command = shlex.join(['python', 'tools/test.py', result.config, result.checkpoint])
    print(f'Next:\n  {command}')


if __name__ == '__main__':
    main()
