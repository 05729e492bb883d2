"""Is a GPU right? What it reckons is compared with the CPU in float64, or with itself bit for bit.

``tools/gpu_check.py`` runs this file. Where there is no GPU, the CPU stands in for it: then it is
the tests that are tried.
"""

import copy
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import Runner
from ranks import ON_RANKS, run_on_ranks
from small_detector import ROOT
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine import DemPHook
from mmpsbn.engine.demp.step_perturbation import StepPerturbation
from mmpsbn.engine.runner_parts import averaged_models_of, bare_model
from mmpsbn.layers import psBN1d, psBN2d, psGN, psIN, psSyncBN

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.slow
needs_gpu = pytest.mark.skipif(DEVICE == 'cpu', reason='there is no GPU here')
CHANNELS_LAST = dict(memory_format=torch.channels_last)
CLOSE = 1e-6  # of weights in float64, after a run
# no noise: each device draws its own
QUIET = dict(penalty=dict(peak=1e-4), noise=dict(peak_std=0.0))
DEMP = dict(type='DemPHook', prune=dict(interval=6, num_samples=8), **QUIET)
BUDGET = dict(type='DemPHook', budget=dict(flops=0.7, begin=0.0, end=0.9, cuts=1))
WRAPPER = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))


@pytest.fixture
def deterministic():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
    yield
    cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)


def toy(norm='psBN', dtype=torch.float64):
    """Two channels of each block are dead."""
    torch.manual_seed(0)
    net = ToyNet(dict(type=norm), width=32, inner=48, dtype=dtype)
    net.data_preprocessor = BaseDataPreprocessor()  # which moves the data to the device
    for block in net.blocks:
        kill_channels(block.bn1, [1, 3])
    return net


def placed_on(device):
    """Within, MMEngine puts models on a device, whatever the machine has."""
    return mock.patch('mmengine.device.utils.DEVICE', device)


def trained(folder, model, hooks, *, device=DEVICE, **kwargs):
    """A runner that has trained on a device."""
    how = dict(optim_wrapper=WRAPPER, iters=20, dtype=next(model.parameters()).dtype) | kwargs
    with placed_on(device):
        runner = toy_runner(folder, copy.deepcopy(hooks), model=model, **copy.deepcopy(how))
        runner.train()
    assert {p.device.type for p in bare_model(runner).parameters()} == {device}
    return runner


def plan_of(runner) -> dict:
    """What DemPHook has removed."""
    hook = next(hook for hook in runner.hooks if isinstance(hook, DemPHook))
    plan = hook.pruner.structure.plan
    assert plan, 'no channel went, so that no event was compared'
    return plan.to_dict()


def tensors_of(runner) -> list[dict]:
    """Weights and buffers of the model and of its averages, on the CPU."""
    models = [bare_model(runner), *averaged_models_of(runner)]
    return [{name: t.cpu() for name, t in model.state_dict().items()} for model in models]


def assert_same_run(ours, theirs, *, close=CLOSE):
    assert plan_of(ours) == plan_of(theirs)
    torch.testing.assert_close(tensors_of(ours), tensors_of(theirs), rtol=0, atol=close)


def layer_steps(layer, x, weights):
    """Outputs, gradients and parameters of ten steps with weight decay, on the CPU."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, weight_decay=0.1)
    found = []
    for _ in range(10):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        optimizer.zero_grad()
        (out.sin() * weights).sum().backward()
        optimizer.step()
        found += [out, leaf.grad, *layer.state_dict().values()]
    return [t.detach().double().cpu() for t in found]


@pytest.mark.parametrize('dtype, close', [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize('kind', [psBN1d, psBN2d, psIN, psGN])
def test_the_steps_of_a_layer(kind, dtype, close):
    torch.manual_seed(0)
    groups = dict(num_groups=2) if kind is psGN else {}
    layer = kind(8, alpha=0.25, **groups).double()
    shape = (6, 8) if kind is psBN1d else (4, 8, 5, 7)
    given = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    ours = copy.deepcopy(layer).to(DEVICE, dtype)
    found = layer_steps(ours, *(t.to(DEVICE, dtype) for t in given))
    for a, b in zip(found, layer_steps(layer, *given)):
        assert (a - b).abs().max() <= close * b.abs().max()


@pytest.mark.parametrize(
    'dtype',
    [torch.bfloat16, pytest.param(torch.float16, marks=needs_gpu)],  # torch 2.1: not on a CPU
    ids=str,
)
def test_autocast_gives_what_batchnorm_gives(deterministic, dtype):
    x = torch.randn(4, 3, 16, 16, device=DEVICE)
    found = []
    for kind in (psBN2d, nn.BatchNorm2d):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), kind(8), nn.ReLU()).to(DEVICE)
        nn.init.constant_(net[1].bias, 0.1)
        with torch.autocast(DEVICE, dtype):
            out = net(x)
        assert out.dtype == dtype
        out.float().square().sum().backward()
        found.append([out, *(p.grad for p in net.parameters()), net[1].running_var])
    assert all(map(torch.equal, *found))


RUNS = {
    'plain': ([DEMP], {}),
    'budget': ([BUDGET], {}),
    'averages': ([DEMP, dict(type='EMAHook', momentum=0.1)], {}),
    'accumulation': (
        [DEMP],
        dict(optim_wrapper=WRAPPER | dict(accumulative_counts=3, clip_grad=dict(max_norm=1.0))),
    ),
}


@pytest.mark.parametrize('name', RUNS)
def test_a_run_ends_as_on_the_cpu(tmp_path, name):
    hooks, how = RUNS[name]
    ours, theirs = (trained(tmp_path, toy(), hooks, device=d, **how) for d in (DEVICE, 'cpu'))
    assert_same_run(ours, theirs)


def test_weights_stay_in_channels_last_when_they_are_cut(tmp_path):
    ours = trained(tmp_path, toy().to(**CHANNELS_LAST), [DEMP])
    weights = [p for p in bare_model(ours).parameters() if p.ndim == 4]
    assert weights and all(p.is_contiguous(**CHANNELS_LAST) for p in weights)
    assert_same_run(ours, trained(tmp_path, toy(), [DEMP], device='cpu'))


@needs_gpu  # on a CPU: tests/test_engine/test_training_matrix.py
@pytest.mark.parametrize(
    'compile', [True, dict(mode='reduce-overhead')], ids=['plain', 'CUDA graphs']
)
def test_a_compiled_run_ends_as_on_the_cpu_or_is_refused(tmp_path, compile):
    try:
        ours = trained(tmp_path, toy(), [DEMP], cfg=dict(compile=compile))
    except TypeError as refusal:
        assert 'DemPHook' in str(refusal)
        pytest.skip(f'refused: {refusal}')
    assert_same_run(ours, trained(tmp_path, toy(), [DEMP], device='cpu'))


@needs_gpu  # MMEngine's AmpOptimWrapper does
def test_a_step_that_overflows_is_none(tmp_path, monkeypatch):
    acted, act = [], StepPerturbation._before_step

    def noted(*args):
        acted.append(args)
        act(*args)

    monkeypatch.setattr(StepPerturbation, '_before_step', noted)
    scale = 40  # its binary logarithm; each step that overflows halves it
    wrapper = WRAPPER | dict(type='AmpOptimWrapper', loss_scale=dict(init_scale=2.0**scale))
    how = dict(optim_wrapper=wrapper, iters=scale)
    runner = trained(tmp_path, toy(dtype=torch.float32), [DEMP], **how)
    real = round(math.log2(runner.optim_wrapper.loss_scaler.get_scale()))
    assert 0 < real < scale
    assert len(acted) == real
    assert plan_of(runner)
    assert all(t.isfinite().all() for t in tensors_of(runner)[0].values())


def test_a_resumed_run_ends_bit_for_bit_as_the_whole_one(tmp_path, deterministic):
    hooks = [DEMP | dict(noise=dict(peak_std=1e-3)), dict(type='SparsityHook', interval=5)]
    whole = trained(tmp_path / 'whole', toy(dtype=torch.float32), hooks)
    half = dict(resume=True, load_from=f'{whole.work_dir}/iter_10.pth')
    resumed = trained(tmp_path / 'resumed', toy(dtype=torch.float32), hooks, **half)
    assert_same_run(resumed, whole, close=0)


@pytest.fixture(scope='module')
def detector(small, tmp_path_factory):
    """detector(device) -> the small RetinaNet, trained in float64 under a budget.

    The loss of the classes is one of torch's: mmcv's focal loss reckons in float32 on a GPU.
    """

    @cache
    def detector(device, name):
        cfg = Config.fromfile(str(small / 'small.py'))
        cfg.model.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=True)
        cfg.train_cfg = dict(by_epoch=True, max_epochs=8)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None  # mmcv's NMS is of float32
        cfg.custom_hooks = [dict(BUDGET)]
        cfg.load_from = str(small / 'dense.pth')
        cfg.experiment_name, cfg.work_dir = name, str(tmp_path_factory.mktemp(name))
        with placed_on(device):
            runner = Runner.from_cfg(cfg)
            runner.model.double()
            runner.train()
        return runner

    return detector


def test_a_detectors_run_ends_as_on_the_cpu(detector):
    assert_same_run(detector(DEVICE, 'ours'), detector('cpu', 'theirs'))


def test_its_checkpoint_is_exported_where_no_gpu_is(detector, small, tmp_path):
    runner = detector(DEVICE, 'ours')
    command = [sys.executable, '-m', 'mmpsbn', 'export', small / 'small.py']
    command += [f'{runner.work_dir}/epoch_{runner.epoch}.pth', '--out', tmp_path, '--fuse']
    alone = dict(os.environ, CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, env=alone, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'BatchNorms folded' in done.stdout


def test_synchronised_statistics_of_one_rank_are_its_own():
    """On a GPU over NCCL."""
    x = torch.randn(4, 8, 5, 7, device=DEVICE)
    found = []
    backend = 'nccl' if DEVICE == 'cuda' else 'gloo'
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        for kind in (psSyncBN, psBN2d):
            layer = kind(8).to(DEVICE)
            out = layer(x)
            out.square().sum().backward()
            found.append([out, layer.weight.grad, layer.bias.grad, layer.running_var])
    finally:
        dist.destroy_process_group()
    assert all(map(torch.equal, *found))


def run_of_a_rank(folder):
    os.environ['LOCAL_RANK'] = '0'  # all ranks share a GPU
    rank = dist.get_rank()
    runner = trained(Path(folder, f'rank{rank}'), toy('psSyncBN'), [DEMP], **ON_RANKS)
    return plan_of(runner), tensors_of(runner)


def test_two_ranks_on_one_device_are_one_of_the_joined_batch(tmp_path):
    """Over gloo: over NCCL it wants two GPUs."""
    first, second = run_on_ranks(run_of_a_rank, 2, tmp_path, tmp_path)
    alone = trained(tmp_path, toy('psBN'), [DEMP])
    assert first[0] == second[0] == plan_of(alone)
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=0)
    torch.testing.assert_close(first[1], tensors_of(alone), rtol=0, atol=CLOSE)
