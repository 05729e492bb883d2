"""How the speed of one convolution depends on its width: GMAC/s, C -> C channels.

Where it falls with the width, removed MACs do not come back as time, whatever else a model does.
"""

import argparse
import functools

import timing
import torch
from torch import nn

WIDTHS = (256, 128, 64, 48, 41, 40, 32, 24, 21, 20, 16, 8)
FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)


def step(conv, x, grad):
    torch.autograd.grad(conv(x), (x, conv.weight), grad)


def measure(args):
    """GMAC/s by (format, width), forward and backward together."""
    runs, macs = {}, {}
    for form, memory_format in FORMATS.items():
        for width in args.widths:
            conv = nn.Conv2d(width, width, args.kernel, padding=args.kernel // 2, bias=False)
            conv.to(memory_format=memory_format)
            x = torch.randn(args.batch, width, args.side, args.side)
            x = x.to(memory_format=memory_format).requires_grad_()
            runs[form, width] = functools.partial(step, conv, x, torch.randn_like(x))
            macs[form, width] = 3 * args.batch * args.side**2 * conv.weight.numel()
    times = timing.interleave(runs, rounds=args.repeats, warmup=1, seed=args.seed)
    return {key: macs[key] / timing.spread(times[key])['median'] / 1e9 for key in runs}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--widths', nargs='+', type=int, default=WIDTHS, help='channels')
    parser.add_argument('--kernel', type=int, default=3)
    parser.add_argument('--side', type=int, default=32, help='pixels')
    parser.add_argument('--batch', type=int, default=32, help='images')
    parser.add_argument('--repeats', type=int, default=5, help='rounds')
    timing.add_arguments(parser)
    args = parser.parse_args(argv)
    timing.set_up(args)
    machine = timing.describe_machine(args)
    timing.print_machine(machine)
    speed = measure(args)
    rows = [[form, *(f'{speed[form, w]:.1f}' for w in args.widths)] for form in FORMATS]
    print(timing.markdown_table(['GMAC/s at width', *map(str, args.widths)], rows))
    found = {form: {w: speed[form, w] for w in args.widths} for form in FORMATS}
    timing.write_json(args.json, dict(machine=machine, gmac_per_second=found))


if __name__ == '__main__':
    main()
