"""A residual block whose last norm has constant channels: is leaving them out worth an indexed add?

A share of the channels that a block adds to its stream is 0 (their constants are folded
elsewhere), while the stream keeps them. Plain: the full convolution and an addition. The others
compute the living channels alone and add them by index; ``in place`` overwrites the stream, which
inference may do where nobody else reads it. The times are those of the last convolution, its norm
and the addition.
"""

import functools

import timing
import torch
from torch import nn

SIZES = ((64, 56), (256, 14), (512, 4))  # channels, side
BATCHES = (1, 8, 32)
SHARES = (0.25, 0.5, 0.75, 0.9)
# kernel -> input channels over output channels: the last convolution of a basic block and of a
# bottleneck
KERNELS = {3: 1.0, 1: 0.25}
WORK = 2e8  # MACs of one timing at least: a clock does not resolve a small layer
WAYS = ('plain', 'index_add', 'index_copy', 'in place')


class Branch(nn.Module):
    """Convolution and norm at the end of a residual block, of the channels in ``kept``."""

    def __init__(self, conv, norm, kept):
        super().__init__()
        self.conv = nn.Conv2d(conv.in_channels, len(kept), conv.kernel_size, 1, conv.padding)
        self.conv.bias = None
        self.conv.weight.data = conv.weight.data[kept]
        self.norm = nn.BatchNorm2d(len(kept))
        self.norm.weight.data, self.norm.bias.data = norm.weight.data[kept], norm.bias.data[kept]
        self.kept = kept

    def forward(self, x, stream, way):
        y = self.norm(self.conv(x))
        if way == 'plain':
            y += stream
            return y
        if way == 'index_add':
            return stream.index_add(1, self.kept, y)
        if way == 'index_copy':
            return stream.index_copy(1, self.kept, stream.index_select(1, self.kept) + y)
        return stream.index_add_(1, self.kept, y)


def branches(channels, kernel, share, generator):
    """The full branch, with ``share`` of its channels 0, and the narrow one, equal to it."""
    conv = nn.Conv2d(
        int(KERNELS[kernel] * channels), channels, kernel, padding=kernel // 2, bias=False
    )
    conv.weight.data.normal_(generator=generator).mul_(0.05)
    norm = nn.BatchNorm2d(channels)
    order = torch.randperm(channels, generator=generator)
    removed, kept = order.split([round(share * channels), channels - round(share * channels)])
    norm.weight.data[removed] = 0
    full = Branch(conv, norm, torch.arange(channels))
    return full, Branch(conv, norm, kept.sort().values)


def measure(channels, side, batch, kernel, share, phase, args):
    """Seconds of each way over the plain one's."""
    generator = torch.Generator().manual_seed(args.seed)
    full, narrow = branches(channels, kernel, share, generator)
    full, narrow = (b.to(args.device).train(phase == 'training') for b in (full, narrow))
    for branch in (full, narrow):
        branch.kept = branch.kept.to(args.device)
    x, stream = (
        torch.randn(batch, width, side, side, generator=generator).to(args.device)
        for width in (full.conv.in_channels, channels)
    )
    macs = batch * side**2 * full.conv.weight.numel()
    passes = max(1, round(WORK / macs))
    synchronize = timing.device_synchronizer(args.device)
    if phase == 'training':
        x.requires_grad_(), stream.requires_grad_()
        grad = torch.randn_like(stream)

    def run(way):
        branch = full if way == 'plain' else narrow
        with torch.set_grad_enabled(phase == 'training'):
            for _ in range(passes):
                out = branch(x, stream, way)
                if phase == 'training':
                    torch.autograd.grad(out, (x, stream, *branch.parameters()), grad)
        synchronize()

    ways = [way for way in WAYS if phase == 'inference' or way != 'in place']
    times = timing.interleave(
        {way: functools.partial(run, way) for way in ways},
        rounds=args.repeats,
        warmup=args.warmup,
        seed=args.seed,
    )
    return dict(
        phase=phase,
        kernel=kernel,
        size=f'{channels}x{side}x{side}',
        batch=batch,
        removed=share,
        plain_ms=1e3 * timing.spread(times['plain'])['median'] / passes,
        ratio={way: timing.ratio(times, way, 'plain')['median'] for way in ways[1:]},
    )


def measure_all(args):
    return [
        measure(*size, batch, kernel, share, phase, args)
        for phase in ('training', 'inference')
        for kernel in KERNELS
        for size in SIZES
        for batch in BATCHES
        for share in SHARES
    ]


def table(rows):
    """One line for each size and batch, one column for each share: index_add / index_copy, and
    in place for inference, over plain."""
    settings = {}
    for row in rows:
        key = row['phase'], f'{row["kernel"]}x{row["kernel"]}', row['size'], str(row['batch'])
        settings.setdefault(key, []).append(row)
    head = ['phase', 'kernel', 'stream', 'batch', 'plain ms']
    return timing.markdown_table(
        head + [f'{share:.0%} removed' for share in SHARES],
        [
            [
                *key,
                f'{min(row["plain_ms"] for row in found):.3f}',
                *(' / '.join(f'{r:.2f}' for r in row['ratio'].values()) for row in found),
            ]
            for key, found in settings.items()
        ],
    )
