"""Penalty and noise at the optimizer step, against the formula written out."""

import copy

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from runs import demp, pruner_of, train
from torch import nn

from mmpsbn.engine.demp.settings import NoiseSettings, PenaltySettings
from mmpsbn.engine.demp.step_perturbation import StepPerturbation

ETA = 0.1


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 4).double()


def attach(
    layer,
    penalty=None,
    noise=None,
    strength=0.5,
    step=0,
    seed=7,
    optimizer=None,
):
    optimizer = optimizer or torch.optim.SGD(layer.parameters(), lr=ETA)
    StepPerturbation(
        penalised=[layer.weight],
        noisy={layer.weight: int(getattr(layer, 'transposed', False))},
        penalty=PenaltySettings(**{'peak': 0.0, **(penalty or {})}),
        noise=NoiseSettings(**{'peak_std': 0.0, **(noise or {})}),
        strength=lambda: strength,
        step=lambda: step,
        seed=seed,
    ).attach([optimizer])
    return optimizer


def move(layer, grad, **settings):
    """The weight before a step on this gradient, and how the step moved it."""
    optimizer = attach(layer, **settings)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.zeros_like(before) + grad
    optimizer.step()
    return before, layer.weight.detach() - before


@pytest.mark.parametrize('kind, direction', [('lasso', torch.sign), ('l2', lambda w: w)])
def test_penalty_joins_the_gradient(layer, kind, direction):
    grad = torch.randn(4, 3).double()
    before, moved = move(layer, grad, penalty=dict(kind=kind, peak=0.3))
    expected = -ETA * (grad + 0.5 * 0.3 * direction(before))
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-15)


def test_an_adaptive_optimizer_scales_the_penalty(layer):
    adam = torch.optim.Adam(layer.parameters(), lr=ETA)
    before, moved = move(layer, 0, penalty=dict(peak=0.3), optimizer=adam)
    # Adam's first step has size lr whatever the gradient's: it is not decoupled
    torch.testing.assert_close(moved, -ETA * torch.sign(before), rtol=1e-6, atol=1e-6)


def test_penalty_is_added_after_clipping(layer):
    optimizer = attach(layer, penalty=dict(peak=10.0))
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1e-3))
    before = layer.weight.detach().clone()
    wrapper.update_params((layer.weight * 100).sum())
    moved = (layer.weight.detach() - before).abs()
    assert (moved > 0.9 * ETA * 0.5 * 10.0).all()


def test_noise_has_the_scheduled_deviation_and_no_learning_rate():
    layer = nn.Linear(200, 200, bias=False).double()
    _, noise = move(layer, 1e-30, noise=dict(peak_std=0.2))
    n = noise.numel()
    assert abs(noise.mean()) < 4 * 0.1 / n**0.5
    assert abs(noise.var() / 0.01 - 1) < 4 * (2 / n) ** 0.5


def test_noise_spares_channels_without_a_gradient(layer):
    grad = torch.tensor([1.0, 1, 0, 1]).double()[:, None]
    before, moved = move(layer, grad, penalty=dict(peak=0.3), noise=dict(peak_std=0.2))
    # the penalty alone moves the dead channel
    torch.testing.assert_close(moved[2], -ETA * 0.5 * 0.3 * torch.sign(before[2]))
    assert (moved[[0, 1, 3]] + ETA).abs().min() > 1e-6


@pytest.mark.parametrize('kind, dim', [(nn.Conv2d, 0), (nn.ConvTranspose2d, 1)])
def test_noise_spares_what_a_relu_holds_at_zero(kind, dim):
    torch.manual_seed(0)
    layer = kind(3, 4, 2).double()
    with torch.no_grad():
        layer.bias[1], layer.bias[2] = 9.0, -9.0
    layer(torch.rand(2, 3, 5, 5).double()).relu().sum().backward()
    still = torch.optim.SGD([layer.weight], 0)
    _, moved = move(layer, layer.weight.grad, noise=dict(peak_std=0.2), optimizer=still)
    moved = moved.movedim(dim, 0).flatten(1)
    assert not moved[2].any() and moved[1].all()


def test_symmetric_noise_reaches_dead_channels_too(layer):
    _, moved = move(layer, 0, noise=dict(peak_std=0.2, asymmetric=False))
    assert moved.all()


def test_noise_is_a_function_of_seed_and_step(layer):
    def moved(step, seed):
        return move(copy.deepcopy(layer), 1, noise=dict(peak_std=0.2), step=step, seed=seed)[1]

    assert torch.equal(moved(3, 7), moved(3, 7))
    assert not torch.equal(moved(3, 7), moved(4, 7))
    assert not torch.equal(moved(3, 7), moved(3, 8))


def test_once_per_real_step_under_gradient_accumulation(layer):
    optimizer = attach(layer, penalty=dict(peak=0.3))
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    wrapper.initialize_count_status(layer, 0, 4)
    before = layer.weight.detach().clone()
    wrapper.update_params(layer.weight.sum())
    assert torch.equal(layer.weight.detach(), before)
    wrapper.update_params(layer.weight.sum())
    expected = before - ETA * (1 + 0.5 * 0.3 * torch.sign(before))
    torch.testing.assert_close(layer.weight.detach(), expected)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='GradScaler is CUDA-only here')
def test_nothing_happens_on_a_step_that_amp_skips():
    layer = nn.Linear(3, 4)
    optimizer = attach(layer, penalty=dict(peak=0.3), noise=dict(peak_std=0.2))
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0)
    before = layer.weight.detach().clone()
    scaler.scale(layer.weight.sum()).backward()
    layer.weight.grad[0, 0] = float('inf')
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight.detach(), before)


def test_strength_zero_leaves_the_step_alone(layer):
    _, moved = move(layer, 1, penalty=dict(peak=0.3), noise=dict(peak_std=1.0), strength=0)
    torch.testing.assert_close(moved, torch.full_like(moved, -ETA), rtol=1e-12, atol=0)


@MODELS.register_module(force=True)
class Decoder(BaseModel):
    """A transposed, a grouped and a plain convolution and a linear layer, with norms."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.up, self.norm = nn.ConvTranspose2d(3, 6, 2), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.mix, self.fc = nn.Conv2d(6, 5, 1), nn.Linear(5, 4)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = self.depthwise(self.norm(self.up(inputs)).relu())
        logits = self.fc(self.mix((x * self.scale).relu()).relu().mean((2, 3)))
        return dict(loss=logits.square().mean()) if mode == 'loss' else logits


def test_the_channels_of_each_parameter_are_where_the_graph_says(tmp_path):
    hook, model = demp(interval=1, num_samples=8), dict(type='Decoder')
    runner, _ = train(tmp_path, [hook], iters=2, model=model)
    names = {p: name for name, p in runner.model.named_parameters()}
    dims = {names[p]: dim for p, dim in pruner_of(runner).parameters(runner.model).items()}
    assert dims == dict.fromkeys(('up.bias', 'norm.weight', 'norm.bias', 'mix.weight'), 0) | {
        'mix.bias': 0,
        'depthwise.weight': 0,
        'depthwise.bias': 0,
        'up.weight': 1,
        'scale': 1,
    }
    resumed, _ = train(tmp_path, [hook], iters=3, model=model, resume=True)
    before, after = (list(pruner_of(r).state()['channel_dims'].items()) for r in (runner, resumed))
    assert after == before
