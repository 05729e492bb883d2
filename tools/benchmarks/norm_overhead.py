"""What psBN costs beside nn.BatchNorm2d and the naive BN(x) + alpha.

Time and peak memory of one layer, forward and backward, in train mode and with fixed statistics
(eval, mmdet's `norm_eval`); and of the optimizer's step of RetinaNet-R50, in which psBN holds
beta. Each round runs every candidate once; the ratios are taken within
rounds and their median is the result. "BN again" is a second BatchNorm2d: how far its ratio is from
1 is what this machine cannot resolve. "best" is the ratio of the fastest rounds, which other jobs
on the machine disturb least. Target: psBN / BN <= 1.02 and the same peak
memory.
"""

import argparse
import functools
import weakref

import timing
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmpsbn.layers import psBN2d

TARGET = 1.02
# Of RetinaNet-R50 on 2 images of 800x1333; for a CPU some of them, smaller.
SHAPES = dict(
    cpu=['2x256x100x168', '2x512x50x84', '2x2048x25x42', '8x64x80x80'],
    cuda=[
        '2x64x400x667',
        '2x256x200x334',
        '2x512x100x167',
        '2x1024x50x84',
        '2x2048x25x42',
        '8x64x80x80',
    ],
)
ROUNDS = dict(cpu=40, cuda=100)
PASSES = dict(cpu=1, cuda=20)  # per timing: a GPU works behind the clock's back


class NaiveShift(nn.BatchNorm2d):
    """y = BN(x) + alpha, on the feature map."""

    def forward(self, x):
        return super().forward(x) + 0.1


BASELINE = 'BN'
CANDIDATES = {'BN': nn.BatchNorm2d, 'psBN': psBN2d, 'naive': NaiveShift, 'BN again': nn.BatchNorm2d}


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made within it that are alive: now and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        known = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in known:  # neither in place nor a view
                self._add(storage.nbytes())
                freed = weakref.finalize(storage, self._add, -storage.nbytes())
                freed.atexit = False  # torch 2.1 crashes on what is left then
        return out

    def _add(self, size):
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(tree):
    return [
        leaf.untyped_storage() for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)
    ]


def forward_backward(layer, x, grad):
    torch.autograd.grad(layer(x), (x, *layer.parameters()), grad)


def peak_bytes(function, device):
    """Largest sum of what the function makes; what is there before does not count."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        function()
    return live.peak


def measure(device, shape, mode, rounds, warmup, seed):
    """The row of one shape and mode, by candidate: medians, ratios to BatchNorm2d, peak memory."""
    generator = torch.Generator(device).manual_seed(seed)
    x, grad = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    x.requires_grad_()
    layers = {
        name: kind(shape[1]).to(device).train(mode == 'train') for name, kind in CANDIDATES.items()
    }
    synchronize = timing.device_synchronizer(device)

    def run(layer):
        for _ in range(PASSES[device]):
            forward_backward(layer, x, grad)
        synchronize()

    times = timing.interleave(
        {name: functools.partial(run, layer) for name, layer in layers.items()},
        rounds=rounds,
        warmup=warmup,
        seed=seed,
    )
    passes = {
        name: functools.partial(forward_backward, layer, x, grad) for name, layer in layers.items()
    }
    return dict(
        device=device,
        shape='x'.join(map(str, shape)),
        mode=mode,
        ms={
            name: 1e3 * timing.spread(seconds)['median'] / PASSES[device]
            for name, seconds in times.items()
        },
        ratio={
            name: dict(
                timing.ratio(times, name, BASELINE), best=min(times[name]) / min(times[BASELINE])
            )
            for name in times
            if name != BASELINE
        },
        forward_peak_bytes={
            name: peak_bytes(functools.partial(layer, x), device) for name, layer in layers.items()
        },
        peak_bytes={name: peak_bytes(function, device) for name, function in passes.items()},
    )


def measure_step(rounds, warmup, seed, depth=50):
    """Milliseconds of an SGD step of RetinaNet by candidate, and the ratio to BatchNorm2d."""
    import mmdet
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    path = f'{mmdet.__path__[0]}/.mim/configs/_base_/models/retinanet_r50_fpn.py'
    steps = {}
    for name, norm in {'BN': 'BN', 'psBN': 'psBN', 'BN again': 'BN'}.items():
        model = Config.fromfile(path).model
        model.backbone.update(depth=depth, init_cfg=None, norm_cfg=dict(type=norm))
        model = MODELS.build(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        for p in trained:
            p.grad = torch.zeros_like(p)
        settings = dict(lr=0.01, momentum=0.9, weight_decay=1e-4)
        steps[name] = torch.optim.SGD(trained, **settings).step
    times = timing.interleave(steps, rounds=rounds, warmup=warmup, seed=seed)
    return dict(
        ms={name: 1e3 * timing.spread(seconds)['median'] for name, seconds in times.items()},
        ratio={name: timing.ratio(times, name, 'BN') for name in ('psBN', 'BN again')},
    )


def print_rows(rows):
    others = [name for name in CANDIDATES if name != BASELINE]
    head = [
        'device',
        'mode',
        'shape',
        *(f'{name} ms' for name in CANDIDATES),
        *(f'{name}/{BASELINE} [quartiles] best' for name in others),
    ]
    timing.print_table(
        head,
        [
            [
                row['device'],
                row['mode'],
                row['shape'],
                *(f'{row["ms"][name]:.2f}' for name in CANDIDATES),
                *(
                    '{median:.3f} [{q1:.3f}, {q3:.3f}] {best:.3f}'.format(**row['ratio'][name])
                    for name in others
                ),
            ]
            for row in rows
        ],
    )
    print('\npeak memory, MiB: of the forward pass / of forward and backward')
    memory = [name for name in CANDIDATES if name != 'BN again']

    def mebibytes(row, name):
        return [f'{row[peak][name] / 2**20:.2f}' for peak in ('forward_peak_bytes', 'peak_bytes')]

    timing.print_table(
        ['device', 'mode', 'shape', *memory],
        [
            [
                row['device'],
                row['mode'],
                row['shape'],
                *(' / '.join(mebibytes(row, name)) for name in memory),
            ]
            for row in rows
        ],
    )


def verdict(row):
    """ok; or which target the row missed; or that this machine cannot tell."""
    # psBN holds a C-vector more, never a feature map
    if any(
        row[peak]['psBN'] > 1.001 * row[peak][BASELINE]
        for peak in ('forward_peak_bytes', 'peak_bytes')
    ):
        return 'MISSED: more peak memory'
    found, floor = row['ratio']['psBN'], row['ratio']['BN again']
    if found['median'] <= TARGET:
        return 'ok'
    if floor['q3'] >= found['median']:
        return 'not resolved: BN against itself varies as much'
    return 'MISSED: slower'


def print_verdicts(rows):
    for row in rows:
        if verdict(row) != 'ok':
            print(f'{row["device"]}, {row["mode"]}, {row["shape"]}: {verdict(row)}')
    ratios = [row['ratio']['psBN']['median'] for row in rows]
    print(
        f'psBN/BN: median over rows {timing.spread(ratios)["median"]:.3f}, '
        f'worst row {max(ratios):.3f}, target {TARGET}'
    )


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--devices',
        nargs='+',
        choices=['cpu', 'cuda'],
        help='default: cpu, and cuda where there is one',
    )
    parser.add_argument('--shapes', nargs='+', metavar='NxCxHxW', help=f'default: {SHAPES}')
    parser.add_argument('--rounds', type=int, help=f'default: {ROUNDS}')
    parser.add_argument(
        '--warmup', type=int, default=3, help='rounds dropped at the start (default: 3)'
    )
    timing.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    timing.set_up(args)
    machine = timing.describe_machine(args)
    timing.print_machine(machine)
    rows = []
    for device in args.devices or (['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']):
        for mode in ('train', 'norm_eval'):
            for shape in args.shapes or SHAPES[device]:
                size = tuple(map(int, shape.split('x')))
                rows.append(
                    measure(
                        device, size, mode, args.rounds or ROUNDS[device], args.warmup, args.seed
                    )
                )
    print_rows(rows)
    print()
    print_verdicts(rows)
    step = measure_step(args.rounds or ROUNDS['cpu'], args.warmup, args.seed)
    print(
        f'SGD step of RetinaNet-R50 on the CPU: BN {step["ms"]["BN"]:.1f} ms, psBN '
        f'{step["ms"]["psBN"]:.1f} ms, psBN/BN {step["ratio"]["psBN"]["median"]:.3f}, BN again '
        f'{step["ratio"]["BN again"]["median"]:.3f}'
    )
    report = dict(machine=machine, target=dict(ratio=TARGET), rows=rows, step=step)
    timing.write_json(args.json, report)


if __name__ == '__main__':
    main()
