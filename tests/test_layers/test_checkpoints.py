"""A psBN checkpoint is a BatchNorm checkpoint, both ways, and exact among psBNs."""

import copy

import pytest
import torch
from layer_cases import CASES, C, by_hand, make, randomise
from mmdet.engine.hooks import MeanTeacherHook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmpsbn.layers import psBN1d, psBN2d

every_layer = pytest.mark.parametrize('case', CASES)
close = dict(rtol=1e-11, atol=1e-11)


def net(seed, channels=500, dtype=torch.float32, **kwargs):
    """Nested psBN layers with random parameters."""
    model = nn.Sequential(psBN1d(channels, **kwargs), nn.Sequential(psBN1d(channels, **kwargs)))
    return randomise(model, seed).to(dtype)


def through_torch(model, path):
    torch.save(model.state_dict(), path)
    return torch.load(path, weights_only=True)


def through_mmengine(model, path):
    save_checkpoint(dict(meta={}, state_dict=weights_to_cpu(get_state_dict(model))), str(path))
    return torch.load(path, weights_only=True)['state_dict']


@every_layer
def test_keys_are_the_plain_layers_and_bias_is_b(case):
    layer, plain, _ = make(case)
    state = layer.state_dict()
    assert list(state) == list(plain.state_dict())
    assert torch.equal(state['bias'], layer.bias) and torch.equal(state['weight'], layer.weight)


@every_layer
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('towards', ['plain', 'psbn'])
def test_a_checkpoint_computes_the_same_function_on_the_other_side(case, training, towards):
    layer, plain, x = make(case, alpha=0.25)
    source, target = (layer, plain) if towards == 'plain' else (plain, layer)
    missing = target.load_state_dict(source.state_dict(), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    outputs, gradients = [], []
    for who in (source.train(training), target.train(training)):
        leaf = x.clone().requires_grad_()
        expected = by_hand(who, leaf, who.weight, source.bias.detach())
        outputs.append(who(leaf))
        torch.testing.assert_close(outputs[-1], expected, **close)
        outputs[-1].sin().sum().backward()
        gradients.append([leaf.grad, who.weight.grad, who._parameters['bias'].grad])
    torch.testing.assert_close(outputs[0], outputs[1], **close)
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize('travel', [through_torch, through_mmengine])
def test_the_bias_survives_to_the_last_bit(tmp_path, travel, dtype):
    source, target = net(0, dtype=dtype), net(1, dtype=dtype)
    target.load_state_dict(travel(source, tmp_path / 'c.pth'))
    for ours, theirs in zip(target.parameters(), source.parameters()):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_another_alpha_has_the_same_b():
    source, target = net(0, alpha=0.1), net(1, alpha=0.4)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target[0].bias, source[0].bias)


def test_a_checkpoint_of_version_0_1_is_read_as_what_it_is():
    # it holds b under bias, and the exact beta in the metadata
    source, target = net(0, channels=C), net(1, channels=C)
    state = source.state_dict()
    state._metadata['0']['psbn_beta'] = source[0].beta.detach()
    target.load_state_dict(state)
    assert torch.equal(target[0].bias, source[0].bias)


def test_a_wrong_width_and_a_missing_key_are_errors():
    target = net(2, channels=3)
    with pytest.raises(RuntimeError, match='size mismatch for 0.bias'):
        target.load_state_dict(net(0).state_dict())
    state = {k: v for k, v in target.state_dict().items() if k != '0.bias'}
    with pytest.raises(RuntimeError, match='Missing key.*0.bias'):
        target.load_state_dict(state)


def test_assign_fills_a_layer_built_on_the_meta_device():
    source = net(0, channels=C)
    with torch.device('meta'):
        target = nn.Sequential(psBN1d(C), nn.Sequential(psBN1d(C)))
    target.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(target[0].bias, source[0].bias)


def by_mmengine(buffers):
    def average(model):
        averaged = ExponentialMovingAverage(model, momentum=0.25, update_buffers=buffers)
        return averaged.module, lambda: averaged.update_parameters(model)

    return average


def by_torch(model):
    averaged = AveragedModel(model, avg_fn=lambda old, new, _: 0.75 * old + 0.25 * new)
    return averaged.module, lambda: averaged.update_parameters(model)


def through_the_state_dict(model):
    """As timm and ultralytics do."""
    averaged = copy.deepcopy(model)
    started = []

    @torch.no_grad()
    def update():
        new = model.state_dict()
        for name, old in averaged.state_dict().items():
            if old.is_floating_point():
                old.copy_(0.75 * old + 0.25 * new[name] if started else new[name])
        started.append(True)

    return averaged, update


def mean_teacher(model):
    """mmdet's hook, which momentum=0.75 tells what to keep."""
    pair = nn.Module()
    pair.student, pair.teacher = model, copy.deepcopy(model)
    hook = MeanTeacherHook(momentum=0.25, skip_buffer=False)
    started = []

    def update():
        hook.momentum_update(pair, 0.25 if started else 1.0)
        started.append(True)

    return pair.teacher, update


@pytest.mark.parametrize(
    'average',
    [by_mmengine(True), by_mmengine(False), by_torch, through_the_state_dict, mean_teacher],
    ids=['mmengine', 'mmengine, no buffers', 'torch', 'state_dict', 'mean teacher'],
)
def test_every_moving_average_averages_b(average):
    model = nn.Sequential(randomise(psBN2d(C), 0)).double()
    averaged, update = average(model)
    expected = {}
    for step in range(4):
        randomise(model, step + 10)
        update()
        for name, p in model.named_parameters():
            old = expected.get(name, p.detach())
            expected[name] = 0.75 * old + 0.25 * p.detach()
    for name, p in averaged.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], **close)
