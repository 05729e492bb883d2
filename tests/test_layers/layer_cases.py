"""Every psBN-like layer beside its plain form."""

import torch
from draws import generator
from torch import nn

from mmpsbn.layers import psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN

C = 6

# name -> (psBN-like layer, plain layer, input shape)
CASES = {
    'psBN1d-NC': (lambda **kw: psBN1d(C, **kw), lambda: nn.BatchNorm1d(C), (5, C)),
    'psBN1d-NCL': (lambda **kw: psBN1d(C, **kw), lambda: nn.BatchNorm1d(C), (3, C, 4)),
    'psBN2d': (lambda **kw: psBN2d(C, **kw), lambda: nn.BatchNorm2d(C), (3, C, 4, 5)),
    'psBN3d': (lambda **kw: psBN3d(C, **kw), lambda: nn.BatchNorm3d(C), (2, C, 3, 2, 2)),
    'psSyncBN': (lambda **kw: psSyncBN(C, **kw), lambda: nn.BatchNorm2d(C), (3, C, 4, 5)),
    'psIN': (lambda **kw: psIN(C, **kw), lambda: nn.InstanceNorm2d(C, affine=True), (3, C, 4, 5)),
    'psIN-tracked': (
        lambda **kw: psIN(C, track_running_stats=True, **kw),
        lambda: nn.InstanceNorm2d(C, affine=True, track_running_stats=True),
        (3, C, 4, 5),
    ),
    'psGN': (lambda **kw: psGN(C, 3, **kw), lambda: nn.GroupNorm(3, C), (2, C, 4, 5)),
}
BATCH_NORMS = [name for name in CASES if 'BN' in name]


def randomise(layer, seed=0):
    """Random gamma, bias parameter and running statistics, in place."""
    draw = generator(seed)
    with torch.no_grad():
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(generator=draw)
                if name.endswith('running_var'):
                    tensor.abs_().add_(0.5)
    return layer


def make(case, seed=0, **kwargs):
    """(psBN-like, plain, input), float64, parameters random and unrelated."""
    ps, plain, shape = CASES[case]
    x = torch.randn(shape, generator=generator(seed + 2), dtype=torch.float64) * 2 + 0.7
    return randomise(ps(**kwargs), seed).double(), randomise(plain(), seed + 1).double(), x
