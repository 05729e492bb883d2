"""Theory against simulation: why filters collapse, in a table and four pictures."""

import argparse
from pathlib import Path

from mmpsbn.analysis import theory


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', metavar='DIR', help='folder for the pictures; none without it')
    parser.add_argument('--samples', type=int, default=100_000, help='Monte-Carlo draws, > 1')
    parser.add_argument('--walks', type=int, default=20_000, help='random walks, > 1')
    parser.add_argument('--steps', type=int, default=10_000, help='steps of the scalar decay')
    parser.add_argument('--weight-decay', type=float, default=1e-4, help='of the scalar decay')
    parser.add_argument('--mlp-steps', type=int, default=1000, help='of an MLP under noise')
    parser.add_argument('--mlp-seed', type=int, default=0, help='of its weights and noise')
    args = parser.parse_args()
    for name, least in dict(samples=2, walks=2, steps=1, mlp_steps=1).items():
        if getattr(args, name) < least:
            option = name.replace('_', '-')
            parser.error(f'--{option} must be >= {least}, got {getattr(args, name)}')
    if not 0 < args.weight_decay < 1:
        parser.error(f'--weight-decay must be in (0, 1), got {args.weight_decay}')
    return args


def main():
    args = parse_args()
    rows = theory.compare_theory(
        num_samples=args.samples,
        num_walks=args.walks,
        num_steps=args.steps,
        weight_decay=args.weight_decay,
    )
    print(theory.comparison_table(rows))
    if args.out:
        out_dir = Path(args.out)
        theory.plot_theorem_one(out_dir / 'theorem_one.png', num_samples=args.samples)
        theory.plot_walks(out_dir / 'walks.png', num_walks=args.walks)
        theory.plot_scalar_decay(
            out_dir / 'scalar_decay.png', num_steps=args.steps, weight_decay=args.weight_decay
        )
        mlp = dict(num_steps=args.mlp_steps, seed=args.mlp_seed)
        print(theory.plot_dying_mlp(out_dir / 'dead_neurons.png', **mlp))
        print(f'pictures in {out_dir}')


if __name__ == '__main__':
    main()
