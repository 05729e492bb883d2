"""How fast is it? With the benchmarks of tools/benchmarks."""

import tempfile
import time
from functools import partial

import timing
import torch
from torch.utils.data import DataLoader, RandomSampler

from .checks import ROOT, Found, Part, Setup, Skip, needs_detector, needs_digits, require

CONFIGS = ROOT / 'configs'
FAST = Part()
_RATIO = 'median over the rounds [quartiles]'


def _bench(setup: Setup, rounds: int) -> timing.Bench:
    rounds = rounds if setup.on_gpu else 2
    seconds = 0.05 if setup.on_gpu else 0.0
    return timing.Bench(rounds, seconds, setup.seed, partial(timing.wall_clock, setup.on_gpu))


def _needs_detector(setup: Setup, *operations: str) -> None:
    if not setup.on_gpu:
        raise Skip('minutes on a CPU, whose times tools/benchmarks/hook_overhead.py measures')
    needs_detector(*operations)


@FAST.check(quick=15, whole=25)
def psbn_beside_batchnorm(setup: Setup) -> Found:
    """Forward and backward of one layer at the sizes of RetinaNet-R50 on two images of 800x1333,
    milliseconds and the ratio to BatchNorm2d. TF32 is for convolutions and matrix products: a norm
    layer has none, and its float32 is float32."""
    from norm_overhead import LAYERS, SHAPES, measure_layer

    shapes = SHAPES['cuda'] if setup.on_gpu else ['2x8x5x7']
    rows = []
    for shape in shapes[:2] if setup.quick else shapes:
        size = tuple(map(int, shape.split('x')))
        for dtype in (torch.float32, torch.bfloat16):
            for form in (torch.contiguous_format, torch.channels_last):
                how = dict(dtype=dtype, memory_format=form)
                bench = _bench(setup, 5)
                seconds = measure_layer(bench, setup.device, size, 'train', **how)
                cells = [f'{timing.milliseconds(seconds[name]):.3f}' for name in LAYERS]
                names = [str(x).removeprefix('torch.') for x in (dtype, form)]
                ratios = [timing.ratio(seconds, n, 'BN') for n in ('psBN', 'naive', 'BN again')]
                rows.append([shape, *names, *cells, *ratios])
    head = ['size', 'type', 'format', *(f'{name} ms' for name in LAYERS)]
    ratios = [f'{name} / BN' for name in ('psBN', 'naive', 'BN again')]
    return Found(f'{len(rows)} rows; {_RATIO}', [*head, *ratios], rows)


@FAST.check(quick=20, whole=30)
def hooks_in_a_step(setup: Setup) -> Found:
    """The share of a training step that each hook takes, of a small RetinaNet."""
    _needs_detector(setup, 'cuda')  # for its focal loss
    from hook_overhead import HEAD, hook_rows, measure_hooks

    config = str(CONFIGS / 'bccd/retinanet_r18_bn_bccd.py')
    with tempfile.TemporaryDirectory() as folder:
        how = dict(size=(640, 640), batch_size=4, bench=_bench(setup, 4), work_dir=folder)
        rows, _, iteration = hook_rows(*measure_hooks(config, **how))
    return Found(f'a plain iteration takes {1e3 * iteration:.1f} ms', HEAD, rows)


@FAST.check(quick=10, whole=15)
def prune_event(setup: Setup) -> Found:
    """Seconds of the first prune event of RetinaNet-R50."""
    _needs_detector(setup, 'cuda')
    from hook_overhead import measure_event

    config = str(CONFIGS / 'retinanet/retinanet_r50_bn_demp.py')
    with tempfile.TemporaryDirectory() as folder:
        how = dict(side=256, bench=_bench(setup, 1), work_dir=folder)
        seconds, before, after = measure_event(config, **how)
    return Found(f'{seconds:.2f} s, {before:,} -> {after:,} parameters')


def _pruned(setup: Setup, name: str, *, side=None, batch=None, tiny=32) -> Found:
    """``tiny`` is the side of the pictures on a CPU."""
    from pruned_speed import HEAD, measure

    how = dict(side=side, batch=batch) if setup.on_gpu else dict(side=tiny, batch=2)
    how |= dict(sparsities=[0.5, 0.8, 0.9], roundings=[1, 8, 16])
    if setup.quick:
        how |= dict(sparsities=[0.5, 0.9], roundings=[8])
    how |= dict(memory_format=torch.channels_last, alone=True, device=setup.device)
    rows = measure(name, _bench(setup, 3), **how)
    return Found(f'{len(rows)} rows, channels_last; {_RATIO}', HEAD[:-1], [r[:-1] for r in rows])


@FAST.check(quick=10, whole=15)
def pruned_resnet18(setup: Setup) -> Found:
    """Dense against pruned: ResNet-18 on 32x32, training step and inference."""
    return _pruned(setup, 'resnet18')


@FAST.check(quick=None, whole=15)
def pruned_vgg16(setup: Setup) -> Found:
    """Dense against pruned: VGG-16 on 32x32."""
    return _pruned(setup, 'vgg16')


@FAST.check(quick=None, whole=20)
def pruned_resnet50(setup: Setup) -> Found:
    """Dense against pruned: ResNet-50 on 224x224."""
    return _pruned(setup, 'resnet50', batch=64, tiny=64)


@FAST.check(quick=None, whole=25)
def pruned_retinanet(setup: Setup) -> Found:
    """Dense against pruned: RetinaNet-R50, two images of 1088x1088, as many pixels as
    800x1333 and a tenth more."""
    _needs_detector(setup, 'cuda', 'cpu')
    return _pruned(setup, 'retinanet', side=1088, tiny=64)


@FAST.check(quick=5, whole=10)
def pictures_in_memory(setup: Setup) -> Found:
    """Images a second out of the in-memory data set, cropped, flipped and normalised."""
    needs_digits()
    from mmengine.registry import init_default_scope

    from mmpsbn.datasets import BatchCropFlip, InMemoryImages, whole_batch_collate
    from mmpsbn.experiments.scales import data_settings

    init_default_scope('mmpretrain')
    settings = data_settings('smoke', None, default_folder=setup.folder / 'digits')
    data = InMemoryImages(settings['data_root'], split='train', source='folder')
    batch, batches = 128, 200 if setup.on_gpu else 5
    sampler = RandomSampler(data, replacement=True, num_samples=batch * batches)
    loader = DataLoader(data, batch, sampler=sampler, collate_fn=whole_batch_collate)
    augment = BatchCropFlip(mean=[0.0] * 3, std=[1.0] * 3).to(setup.device)
    start = time.perf_counter()
    for pictures in loader:
        found = augment(pictures, training=True)['inputs']
    if setup.on_gpu:
        torch.cuda.synchronize()
    rate = batch * batches / (time.perf_counter() - start)
    require(found.device.type == setup.device, f'the pictures came out on {found.device}')
    return Found(f'{rate:,.0f} images/s in batches of {batch}')
