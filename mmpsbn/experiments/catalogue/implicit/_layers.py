"""Filters by layer, and those that are pruned: of BasicNet, of VGG and by explicit ways."""

from collections.abc import Mapping, Sequence

from ...experiment import Arm, Options
from ...pictures import over_steps
from ...scales import length
from ...tables import ArmTable
from .._shared import FEW, LR, NOTHING_GOES, cut_once
from ._basic_net import training

TABLE_2 = {
    'Adam L2': (1e-3, 1e-4),
    'Adam WD': (2e-4, 1e-4),
    'SGD L2': (1e-3, 5e-4),
    'SGD WD': (1e-3, 5e-4),
}
# tables 7 and 10: depth -> batch sizes
VGG_SIZES = {16: (40, 80, 160), 19: (64, 512)}
_VGG = 'cifar/vgg16_bn_cifar10_in_memory.py'
# Network Slimming's, "identical" in section 5: one linear layer
_SLIMMING_HEAD = dict(_delete_=True, type='LinearClsHead', in_channels=512)


def _vgg(scale: str, depth: int, batch_size: int, classes: int) -> Options:
    """Adam with L2 1e-4."""
    head = {'model.head.num_classes': classes}
    if depth == 19:
        head = {'model.head': dict(_SLIMMING_HEAD, num_classes=classes)}
    few = dict.fromkeys(FEW, 100) if scale == 'smoke' else {}  # one a class
    options = training(scale, 'Adam L2', 1e-4, batch_size) | {'model.backbone.depth': depth}
    return options | head | few


def vggs(scale: str, sizes: Mapping[int, Sequence[int]], classes: int) -> list[Arm]:
    """Of depth -> batch sizes."""
    return [
        Arm(f'VGG-{depth}, batch {size}', _VGG, _vgg(scale, depth, size, classes))
        for depth, values in sizes.items()
        for size in values
    ]


# Tables 7 and 10, explicit ways: what they are trained with, what they choose by and what they
# leave of the MACs. Li et al. have left 66 % in their paper (1608.08710), which chooses layers by
# hand; that of Network Slimming (1708.06519) is ours, its penalty is not.
_LASSO = dict(
    type='DemPHook',
    penalty=dict(peak=1e-4),
    noise=dict(peak_std=0.0),
    schedule=dict(type='constant'),
)
_EXPLICIT = {'Li et al.': ([], 'l1', 0.66), 'Network Slimming': ([_LASSO], 'bn_scale', 0.5)}
# Finetuned for 40 epochs at a rate of 1e-3, as Li et al.
_FINETUNED = dict(smoke=(1, 8, 13), paper=(40, 64, 31_280))  # epochs, batch size, iterations
_NOTHING_GOES = dict(
    smoke=dict(NOTHING_GOES, interval=1), paper=dict(NOTHING_GOES, interval=100_000)
)


def explicit(scale: str, way: str, depth: int, classes: int) -> list[Arm]:
    """Training and finetuning by one of the explicit ways."""
    hooks, score, left = _EXPLICIT[way]
    epochs, batch_size, iterations = _FINETUNED[scale]
    net = _vgg(scale, depth, 64, classes) | training(scale, 'SGD L2', 1e-4, 64)
    first = [dict(hook, prune=_NOTHING_GOES[scale]) for hook in hooks]
    then = length(epochs, batch_size=batch_size) | {
        LR: 1e-3,
        'param_scheduler.milestones': [epochs],
        'custom_hooks': [cut_once(score, left, iterations)],
    }
    name = f'{way}, VGG-{depth}'
    return [
        Arm(f'{name}, trained', _VGG, net | {'custom_hooks': first}),
        Arm(name, _VGG, net | then, pretrained=f'{name}, trained', whole=True),
    ]


BY_LAYER = dict(
    table=ArmTable(
        '% filters removed of',
        {
            'all': '{small_share:.0p}',
            'weights': '{weights_removed:.0p}',
            'test error, %': '{error:.2f}',
            'after': '{error_after:.2f}',
        },
        step='{small_by_layer:.0p}',
        step_head='C{}',
    ),
    panels=over_steps('convolution', 'small_by_layer'),
)
