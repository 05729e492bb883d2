"""Is the GPU right? Everything is compared with the CPU in float64, or with itself bit for bit."""

from functools import partial

import torch
import torch.distributed as dist
from mmengine.registry import init_default_scope
from torch import nn

from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.layers import psBN1d, psBN2d, psGN, psIN, psSyncBN

from .checks import Found, Part, Setup, Skip, needs_detector, require
from .runs import (
    SGD,
    classifier,
    demp,
    furthest,
    pictures,
    plan_of,
    tensors_of,
    train,
)

CLOSE = 1e-6  # of weights in float64, after so many steps
EMA = dict(type='EMAHook', momentum=0.1)
_ALPHA = 0.25  # exact in float32
_FORM = dict(memory_format=torch.channels_last)
CORRECT = Part()


def _steps(setup: Setup) -> int:
    return 8 if not setup.on_gpu else 12 if setup.quick else 20


def _width(setup: Setup) -> int:
    return 32 if setup.on_gpu else 4


def _unchanged(model: nn.Module) -> nn.Module:
    return model


def _as_on_the_cpu(
    setup: Setup, build, hooks=(), *, prepare=_unchanged, look=_unchanged, cfg=None, **kwargs
) -> str:
    """Train on the device and on the CPU; raises AssertionError where they differ.

    Args:
        build: makes the model, in float64.
        prepare: what is done to that of the device; look: what is asked of it in the end.
        cfg: of the device's run alone.
        kwargs: of :func:`.runs.train`.
    """
    how = dict(steps=_steps(setup), seed=setup.seed) | kwargs
    folder = setup.folder / 'runs'
    ours = train(folder, prepare(build()), hooks, device=setup.device, cfg=cfg, **how)
    theirs = train(folder, build(), hooks, device='cpu', **how)
    look(bare_model(ours))
    said = f'{how["steps"]} steps'
    if hooks:
        plans = [plan_of(runner).to_dict() for runner in (ours, theirs)]
        require(plans[0] == plans[1], 'other channels went than on the CPU')
        require(bool(plan_of(ours)), 'no channel went, so that no event was compared')
        said += ', the same channels went'
    worst, name = furthest(tensors_of(ours), tensors_of(theirs))
    require(worst <= CLOSE, f'{name} is {worst:.1e} from the CPU, more than {CLOSE:.0e}')
    return f'{said}, weights within {worst:.1e} ({name})'


def _resnet18(setup: Setup, **kwargs):
    return partial(classifier, setup.seed, width=_width(setup), **kwargs)


@CORRECT.check(quick=5, whole=5)
def psbn_layers(setup: Setup) -> Found:
    """psBN is BatchNorm(x) + alpha with weight decay on beta: forward, backward, ten steps."""
    norms = {
        psBN1d: lambda: nn.BatchNorm1d(8),
        psBN2d: lambda: nn.BatchNorm2d(8),
        psIN: lambda: nn.InstanceNorm2d(8, affine=True),
        psGN: lambda: nn.GroupNorm(2, 8),
    }
    rows = []
    for kind, norm in norms.items():
        shape = (6, 8) if kind is psBN1d else (4, 8, 5, 7)
        extra = dict(num_groups=2) if kind is psGN else {}
        for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            ours = kind(8, alpha=_ALPHA, **extra).to(setup.device, dtype)
            theirs = norm().double()
            nn.init.constant_(theirs.bias, _ALPHA)  # of a beta of 0
            errors = [_step_errors(ours, theirs, shape, step) for step in range(10)]
            require(max(errors) < close, f'{kind.__name__} in {dtype}: {max(errors):.1e} off')
            rows.append([kind.__name__, str(dtype), f'{max(errors):.1e}'])
    return Found('as on the CPU in float64', ['layer', 'type', 'largest relative error'], rows)


def _step_errors(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], step: int) -> float:
    """One SGD step of a psBN layer, and by hand of torch's norm, whose bias is beta + alpha; the
    largest error of output, gradients and parameters, relative to the largest value."""
    generator = torch.Generator().manual_seed(step)
    x, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for layer in (ours, theirs):
        place = dict(device=layer.weight.device, dtype=layer.weight.dtype)
        leaf = x.to(**place).requires_grad_()
        out = layer(leaf)
        (out.sin() * weights.to(**place)).sum().backward()
        found.append([out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad])
    settings = dict(lr=0.05, weight_decay=0.1)
    torch.optim.SGD(ours.parameters(), **settings).step()
    with torch.no_grad():  # weight decay on beta
        theirs.weight -= 0.05 * (theirs.weight.grad + 0.1 * theirs.weight)
        theirs.bias -= 0.05 * (theirs.bias.grad + 0.1 * (theirs.bias - _ALPHA))
    for pair, layer in zip(found, (ours, theirs)):
        pair += [p.detach().clone() for p in layer.parameters()]
        layer.zero_grad()
    pairs = [(a.double().cpu(), b) for a, b in zip(*found)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@CORRECT.check(quick=3, whole=3)
def autocast(setup: Setup) -> Found:
    """Under fp16 and bf16 autocast psBN gives what a BatchNorm of the same bias gives, bit for
    bit."""
    torch.backends.cudnn.deterministic = True  # or two runs of one net differ in their last bits
    x = torch.randn(4, 3, 16, 16, device=setup.device)
    for dtype in (torch.float16, torch.bfloat16):
        nets = []
        for kind in (psBN2d, nn.BatchNorm2d):
            torch.manual_seed(setup.seed)
            net = nn.Sequential(nn.Conv2d(3, 8, 3), kind(8), nn.ReLU()).to(setup.device)
            with torch.no_grad():
                net[1].bias.fill_(0.1)
            nets.append(net)
        found = []
        for net in nets:
            with torch.autocast(setup.device, dtype):
                out = net(x)
            out.float().square().sum().backward()
            found.append([out, *(p.grad for p in net.parameters()), net[1].running_var])
        require(found[0][0].dtype == dtype, f'the output is {found[0][0].dtype}, not {dtype}')
        same = all(torch.equal(a, b) for a, b in zip(*found))
        require(same, f'under {dtype} psBN differs from BatchNorm')
    return Found('fp16 and bf16, forward and backward, bit for bit')


@CORRECT.check(quick=5, whole=10)
def grad_scaler(setup: Setup) -> Found:
    """With a GradScaler whose first scale overflows, DemPHook acts on real steps alone."""
    if not setup.on_gpu:
        raise Skip("MMEngine's AmpOptimWrapper needs a GPU")
    from .scaled import compare_scaled

    return Found(compare_scaled(setup, steps=_steps(setup)))


@CORRECT.check(quick=10, whole=15)
def resnet18(setup: Setup) -> Found:
    """ResNet-18 under DemPHook: the same events and weights as on the CPU in float64."""
    return Found(_as_on_the_cpu(setup, _resnet18(setup, norm='psBN'), [demp()]))


@CORRECT.check(quick=10, whole=15)
def budget(setup: Setup) -> Found:
    """DemPHook with a budget chooses the same channels as on the CPU."""
    hook = dict(type='DemPHook', budget=dict(flops=0.7, begin=0.0, end=0.9, cuts=1))
    steps = max(_steps(setup), 12)  # ten before a cut
    return Found(_as_on_the_cpu(setup, _resnet18(setup), [hook], steps=steps))


@CORRECT.check(quick=10, whole=15)
def averages(setup: Setup) -> Found:
    """With an EMA, whose weights lose the same channels."""
    return Found(_as_on_the_cpu(setup, _resnet18(setup), [demp(), EMA]))


@CORRECT.check(quick=10, whole=15)
def accumulation(setup: Setup) -> Found:
    """With gradients accumulated over three iterations, and clipped."""
    wrapper = dict(optimizer=dict(SGD), accumulative_counts=3, clip_grad=dict(max_norm=1.0))
    return Found(_as_on_the_cpu(setup, _resnet18(setup), [demp()], optim_wrapper=wrapper))


@CORRECT.check(quick=10, whole=15)
def channels_last(setup: Setup) -> Found:
    """With weights in channels_last, which they keep when they are cut."""

    how = dict(prepare=partial(nn.Module.to, **_FORM), look=_require_form)
    return Found(_as_on_the_cpu(setup, _resnet18(setup), [demp()], **how))


def _require_form(model: nn.Module) -> None:
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 4}
    lost = [name for name, p in weights.items() if not p.is_contiguous(**_FORM)]
    require(not lost, f'{lost} are not in channels_last any more')


@CORRECT.check(quick=None, whole=40)
def compiled(setup: Setup) -> Found:
    """With torch.compile, anew after each event."""
    return Found(_as_on_the_cpu(setup, _resnet18(setup), [demp()], cfg=dict(compile=True)))


@CORRECT.check(quick=None, whole=40)
def cuda_graphs(setup: Setup) -> Found:
    """With CUDA graphs (torch.compile in mode reduce-overhead): right, or refused by name."""
    if not setup.on_gpu:
        raise Skip('there are no CUDA graphs on the CPU')
    cfg = dict(compile=dict(mode='reduce-overhead'))
    try:
        return Found(_as_on_the_cpu(setup, _resnet18(setup), [demp()], cfg=cfg))
    except TypeError as refusal:
        require('DemPHook' in str(refusal), f'it broke off with {refusal}')
        return Found(f'refused: {refusal}')


@CORRECT.check(quick=5, whole=10)
def resume(setup: Setup) -> Found:
    """A run with noise that goes on from its checkpoint ends bit for bit as the whole one, under
    deterministic algorithms."""
    steps = _steps(setup)
    noisy = demp(noise=dict(peak_std=1e-3))
    how = dict(device=setup.device, seed=setup.seed, steps=steps, deterministic=True)
    build = partial(_resnet18(setup), dtype=torch.float32, norm='psBN')
    data = pictures(setup.seed, torch.float32)
    hooks = [noisy, EMA, dict(type='SparsityHook', interval=5)]
    whole = train(setup.folder / 'whole', build(), hooks, data=data, **how)
    half = str(setup.folder / 'whole' / f'iter_{steps // 2}.pth')
    how |= dict(resume=True, load_from=half)
    resumed = train(setup.folder / 'resumed', build(), hooks, data=data, **how)
    require(resumed.iter == steps and bool(plan_of(resumed)), 'no event was in the run')
    worst, name = furthest(tensors_of(resumed), tensors_of(whole))
    require(worst == 0, f'{name} differs by {worst:.1e}')
    return Found(f'{steps} steps, resumed after {steps // 2}, bit for bit')


@CORRECT.check(quick=15, whole=30)
def retinanet(setup: Setup) -> Found:
    """RetinaNet (R50; R18 on the CPU) under DemPHook: the same events and weights as on the CPU."""
    needs_detector('cuda', 'cpu')
    from .detector import detections, retinanet_with_dead_channels

    how = dict(depth=50, width=64) if setup.on_gpu else dict(depth=18, width=8)
    build = partial(retinanet_with_dead_channels, setup.seed, dtype='float64', **how)
    init_default_scope('mmdet')
    side = 128 if setup.on_gpu else 64
    said = _as_on_the_cpu(
        setup,
        build,
        [demp(prune=dict(interval=3, num_samples=4))],
        data=detections(setup.seed, side=side),
        batch_size=2,
        collate='pseudo_collate',
        optim_wrapper=dict(optimizer=dict(SGD, lr=1e-3), clip_grad=dict(max_norm=10)),
        default_scope='mmdet',
    )
    return Found(f'{said}; with binary cross-entropy for the focal loss')


@CORRECT.check(quick=10, whole=20)
def export(setup: Setup) -> Found:
    """A checkpoint that the device wrote is exported where only a CPU is."""
    from .classification import export_of_a_run

    return Found(export_of_a_run(setup))


@CORRECT.check(quick=2, whole=2)
def one_rank(setup: Setup) -> Found:
    """psSyncBN in a group of one process, over NCCL on a GPU, is psBN, bit for bit."""
    backend = 'nccl' if setup.on_gpu else 'gloo'
    x = torch.randn(4, 8, 5, 7, device=setup.device)
    found = []
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        for kind in (psSyncBN, psBN2d):
            layer = kind(8).to(setup.device)
            out = layer(x)
            out.square().sum().backward()
            found.append([out, layer.weight.grad, layer.bias.grad, layer.running_var])
    finally:
        dist.destroy_process_group()
    require(all(map(torch.equal, *found)), 'psSyncBN differs from psBN')
    return Found(f'{backend}, forward and backward, bit for bit')


@CORRECT.check(quick=20, whole=30)
def two_processes(setup: Setup) -> Found:
    """Two processes on one GPU over gloo, with psSyncBN and DemPHook: one of the joined batch.
    Over NCCL that wants two GPUs, and is not tried."""
    from .ranks import compare_ranks

    return Found(compare_ranks(setup))
