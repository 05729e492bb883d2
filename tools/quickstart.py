"""Train a small detector on generated pictures, and beside it one that loses half of its MACs."""

import argparse
from pathlib import Path

import torch

import mmpsbn  # noqa: F401  (registers layers and hooks)
from mmpsbn.analysis.quickstart import run_quickstart

ROOT = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/quickstart')
    parser.add_argument('--data-root', default='data/digits')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(1)  # of the report, as of the trainings: two wait where a core is busy
    dense, pruned = (
        str(ROOT / f'configs/quickstart/retinanet_r18_psbn_{name}.py')
        for name in ('digits', 'budget_digits')
    )
    try:
        run_quickstart(
            dense, pruned, data_root=args.data_root, work_dir=args.work_dir, resume=args.resume
        )
    except RuntimeError as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        raise SystemExit(
            'interrupted; with --resume it goes on from the last checkpoints'
        ) from None


if __name__ == '__main__':
    main()
