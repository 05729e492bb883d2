"""Numbers of the arms of each experiment, as they might be."""

from mmpsbn.experiments.measured import Measured


def measured(numbers):
    return {name: Measured(name, arm) for name, arm in numbers.items()}


def rounds(sparsity, top1, *, loss=None, dead=None, **more):
    count = len(sparsity)
    return dict(
        flops_sparsity=sparsity,
        top1=top1,
        loss=loss or [0.5] * count,
        collapsed=list(range(count)),
        channels=200,
        dead=dead or [10 * at for at in range(count)],
        prunable=100,
        classes=10,
        **more,
    )


def inactive(collapsed, error, dead=0.0, **more):
    return dict(collapsed=collapsed, error=error, dead=dead, loss=0.25, classes=10, **more)


def bn_only(top1, small, change, relus):
    keys = ('0.01', '0.05', '0.1')
    return dict(
        top1=top1,
        small_gammas=dict(zip(keys, small)),
        change_clamped=dict(zip(keys, change)),
        relus_off=relus,
        loss=0.5,
        classes=10,
    )


def demp(top1, speedup, weights):
    removed = dict(weights=weights, channels=weights / 2, macs=weights / 4)
    return dict(
        top1=top1, train_seconds=100, speedup=speedup, removed=removed, loss=0.5, classes=10
    )


def finetuned(box_map, macs, seconds=100.0):
    """A detector as ``finetune-tradeoff`` reads it."""
    times = dict(onnx=macs + 0.1, train_seconds=seconds)
    return dict(map=box_map, macs=macs, params=macs / 2, loss=0.25, classes=3, **times)


NUMBERS = {
    'psbn-rounds': {
        'BN + ReLU': rounds([0.0, 0.1, 0.3], [80.0, 79.0, 77.04]),
        'BN + Leaky ReLU': rounds([0.0, 0.1, 0.2], [80.0, 79.5, 78.0]),
        'psBN + ReLU': rounds([0.0, 0.0, 0.03], [79.0, 80.0, 81.0]),
    },
    'psbn-random-labels': {
        'BN': rounds([0.01, 0.2], [10.0, 10.0], loss=[0.5, 1.75]),
        'psBN': rounds([0.0, 0.004], [10.0, 10.0], loss=[0.75, 0.25]),
    },
    'psbn-lr': {
        'BN, 0.1': rounds([0.01], [80.0]),
        'BN, 1': rounds([0.5], [60.0], dead=[40]),
        'psBN, 0.1': rounds([0.0], [80.0]),
        'psBN, 1': rounds([0.25], [70.0]),
    },
    'psbn-snapshot': {
        'BN, 0.2': rounds([0.0, 0.25], [80.0, 81.0], ensemble=82.0),
        'psBN, 0.2': rounds([0.0, 0.05], [79.0, 82.0], ensemble=83.5),
    },
    'psbn-finetune': {
        'BN on five': rounds([0.1], [90.0], dead=[20]) | dict(classes=5),
        'psBN on five': rounds([0.0], [90.0], dead=[0]) | dict(classes=5),
        'BN on five -> BN, 0.1': rounds([0.4], [80.0], dead=[50]) | dict(collapsed=[40]),
        'BN on five -> BN, 0.01': rounds([0.2], [79.0], dead=[20]),
        'BN on five -> psBN, 0.1': rounds([0.06], [81.0], dead=[5]) | dict(collapsed=[2]),
        'psBN on five -> psBN, 0.1': rounds([0.0], [82.0], dead=[1]) | dict(collapsed=[4]),
    },
    'implicit-optimizers': {
        'SGD L2, 0.001': inactive(0.27, 21.8, dead=0.28),
        'SGD L2, 0.0001': inactive(0.0, 11.8),
        'Adam L2, 0.001': inactive(0.83, 13.1, dead=0.85),
        'Adam L2, 0.0001': inactive(0.7, 10.5, dead=0.71),
        'Adam L2, 0': inactive(0.0, 11.0, dead=0.03),
        'Adam WD, 0.0001': inactive(0.4, 11.2, dead=0.4),
    },
    'implicit-batch-size': {
        'L2 0.001, 80': inactive(0.8, 12.2),
        'L2 0.001, 20': inactive(0.85, 15.2),
    },
    'implicit-prune': {
        'Adam L2 0.001': inactive(
            0.75, 13.1, by_layer=[0.5, 1.0], weights_removed=0.97, error_after=13.5
        ),
        'VGG-16, batch 40': inactive(
            0.5, 7.2, by_layer=[0.25, 0.5, 0.75], weights_removed=0.9, error_after=7.2
        ),
    },
    'bn-only': {
        'all, 56': bn_only(90.0, (0.05, 0.1, 0.2), (0.0, -0.5, -2.0), 0.02),
        'BN, 56': bn_only(65.0, (0.25, 0.4, 0.5), (0.25, -1.0, -4.0), 0.3),
        'all, 14': bn_only(88.0, (0.04, 0.1, 0.2), (0.0, 0.0, 0.0), 0.01),
        'BN, 14': bn_only(48.0, (0.3, 0.4, 0.5), (0.0, -1.0, -9.0), 0.28),
    },
    'demp-tradeoff': {
        'SGDM, dense': demp(90.0, 1.0, 0.0),
        'SGDM, 0.001': demp(89.5, 1.25, 0.6),
        'SGDM, 0.004': demp(89.0, 2.0, 0.85),
        'SGDM, 0.01': demp(85.0, 2.5, 0.9),
    },
    'finetune-tradeoff': {
        'before finetuning, 100': finetuned(0.375, 1.0),
        'dense, 100, seed 0': finetuned(0.39, 1.0),
        'dense, 100, seed 1': finetuned(0.41, 1.0, 140.0),
        'the one line, 50, seed 0': finetuned(0.38, 0.5),
        'the one line, 50, seed 1': finetuned(0.4, 0.5),
        'the one line, 25, seed 0': finetuned(0.35, 0.25),
        'the one line, 25, seed 1': finetuned(0.37, 0.25),
    },
}
NUMBERS['psbn-gamma-init'] = NUMBERS['psbn-lr']
