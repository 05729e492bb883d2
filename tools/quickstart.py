"""Train and prune a small detector on the embedded data set, in about five minutes."""

import argparse
from pathlib import Path

import mmpsbn  # noqa: F401  (registers layers and hooks)
from mmpsbn.analysis.demo import run_quickstart

ROOT = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/quickstart')
    parser.add_argument('--data-root', default='data/digits')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    return parser.parse_args()


def main():
    args = parse_args()
    config = ROOT / 'configs/quickstart/retinanet_r18_psbn_demp_digits.py'
    run_quickstart(
        str(config), data_root=args.data_root, work_dir=args.work_dir, resume=args.resume
    )


if __name__ == '__main__':
    main()
