"""Generate the embedded digits detection set (COCO format, no download)."""

import argparse

from mmpsbn.datasets.digits import write_digits_dataset


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        'out_dir', help='folder to make; reused if it already holds this very data set'
    )
    parser.add_argument('--num-train', type=int, default=2400, help='train images')
    parser.add_argument('--num-val', type=int, default=160, help='val images')
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        default=(160, 128),
        metavar=('WIDTH', 'HEIGHT'),
        help='pixels',
    )
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main():
    args = parse_args()
    out_dir = write_digits_dataset(
        args.out_dir,
        num_train=args.num_train,
        num_val=args.num_val,
        image_size=tuple(args.image_size),
        seed=args.seed,
    )
    print(f'digits data set ready in {out_dir}')


if __name__ == '__main__':
    main()
