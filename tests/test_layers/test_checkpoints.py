"""A psBN checkpoint is a BatchNorm checkpoint, both ways, and exact among psBNs."""

import copy

import pytest
import torch
from layer_cases import CASES, C, by_hand, generator, make, randomise
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from torch import nn

from mmpsbn.layers import beta_in_state_dict, psBN1d, psBN2d

every_layer = pytest.mark.parametrize('case', CASES)
close = dict(rtol=1e-11, atol=1e-11)


def net(seed, channels=500, dtype=torch.float32, **kwargs):
    """Nested psBN layers with betas whose b - alpha is not beta to the last bit."""
    model = nn.Sequential(psBN1d(channels, **kwargs), nn.Sequential(psBN1d(channels, **kwargs)))
    return randomise(model, seed).to(dtype)


def betas(model):
    return torch.cat([p for name, p in model.named_parameters() if name.endswith('bias')])


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
@pytest.mark.parametrize(
    'travel',
    [
        lambda m, path: m.state_dict(),
        lambda m, path: copy.deepcopy(m.state_dict()),
        through_torch,
        through_mmengine,
    ],
    ids=['dict', 'deepcopy', 'torch.save', 'mmengine'],
)
def test_beta_survives_to_the_last_bit(tmp_path, travel, dtype):
    source, target = net(0, dtype=dtype), net(1, dtype=dtype)
    assert not torch.equal(source[0].bias - 0.1, source[0].beta), 'nothing to lose: no test'
    target.load_state_dict(travel(source, tmp_path / 'c.pth'))
    assert torch.equal(betas(target), betas(source))


def test_mmengine_load_checkpoint_restores_beta_to_the_last_bit(tmp_path):
    source, target = net(0), net(1)
    path = str(tmp_path / 'c.pth')
    save_checkpoint(dict(meta={}, state_dict=weights_to_cpu(get_state_dict(source))), path)
    load_checkpoint(target, path, map_location='cpu', strict=True)
    assert torch.equal(betas(target), betas(source))


@pytest.mark.parametrize('reading, shift', [('effective', 0.25), ('beta', 0.0)])
def test_how_a_plain_checkpoint_is_read(reading, shift):
    plain = randomise(nn.BatchNorm2d(C)).double()
    layer = psBN2d(C, alpha=0.25, pretrained_bias=reading).double()
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer.beta, plain.bias - shift, **close)
    torch.testing.assert_close(layer.bias, plain.bias + 0.25 - shift, **close)


@pytest.mark.parametrize('alphas', [(0.1, 0.1), (0.1, 0.4)])
def test_a_psbn_checkpoint_is_read_as_what_it_is_whatever_is_asked_for(tmp_path, alphas):
    source, target = net(0, alpha=alphas[0]), net(1, alpha=alphas[1], pretrained_bias='beta')
    target.load_state_dict(through_mmengine(source, tmp_path / 'c.pth'))
    torch.testing.assert_close(target[0].bias, source[0].bias, rtol=0, atol=2e-7)
    if alphas[0] == alphas[1]:
        assert torch.equal(betas(target), betas(source))


def test_metadata_of_other_weights_does_not_count():
    # EMAHook swaps tensors between two state dicts.
    model, average = net(0), net(1)
    a, b = model.state_dict(), average.state_dict()
    for key in a:
        a[key], b[key] = b[key], a[key]
    target = net(2)
    target.load_state_dict(a)
    torch.testing.assert_close(target[0].bias, average[0].bias, rtol=0, atol=2e-7)
    target.load_state_dict(b)
    torch.testing.assert_close(target[1][0].bias, model[1][0].bias, rtol=0, atol=2e-7)


def test_a_state_dict_is_a_snapshot_of_beta_too():
    model = net(0)
    state, before = model.state_dict(), betas(model).clone()
    with torch.no_grad():
        model[0].beta.add_(1)
    model.load_state_dict(state)
    assert torch.equal(betas(model), before)


def test_metadata_for_another_width_is_ignored_and_a_wrong_width_is_an_error():
    state = net(0).state_dict()
    narrow = net(1, channels=3)
    for key, value in narrow.state_dict().items():
        state[key] = value
    target = net(2, channels=3)
    target.load_state_dict(state)
    torch.testing.assert_close(target[0].bias, narrow[0].bias, rtol=0, atol=2e-7)
    with pytest.raises(RuntimeError, match='size mismatch for 0.bias'):
        target.load_state_dict(net(0).state_dict())
    with pytest.raises(RuntimeError, match='Missing key.*0.bias'):
        target.load_state_dict({k: v for k, v in state.items() if k != '0.bias'})


def test_nan_in_a_checkpoint_stays_nan():
    source, target = net(0), net(1)
    with torch.no_grad():
        source[0].beta[3] = float('nan')
    target.load_state_dict(source.state_dict())
    assert target[0].beta.isnan().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_assign_makes_beta_a_parameter(dtype):
    source, target = net(0, dtype=dtype), net(1)
    target.load_state_dict(source.state_dict(), assign=True)
    assert isinstance(target[0].beta, nn.Parameter) and target[0].beta.requires_grad
    assert betas(target).dtype == dtype and torch.equal(betas(target), betas(source))
    assert torch.equal(target[0].bias, source[0].bias)


def test_assign_fills_a_layer_built_on_the_meta_device():
    source = net(0, channels=C)
    with torch.device('meta'):
        target = nn.Sequential(psBN1d(C), nn.Sequential(psBN1d(C)))
    target.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(betas(target), betas(source))


def test_beta_in_state_dict_holds_beta_itself_and_ends_with_its_block():
    layer = randomise(psBN2d(C))
    with pytest.raises(KeyError), beta_in_state_dict():
        with beta_in_state_dict():
            assert layer.state_dict()['bias'].data_ptr() == layer.beta.data_ptr()
        held = layer.state_dict()
        assert torch.equal(held['bias'], layer.beta)
        other = psBN2d(C)
        other.load_state_dict(held)
        assert torch.equal(other.beta, layer.beta)
        raise KeyError
    assert torch.equal(layer.state_dict()['bias'], layer.bias)


@pytest.mark.parametrize('update_buffers', [True, False])
def test_averaged_model_averages_beta(update_buffers):
    model = nn.Sequential(randomise(psBN2d(C), 0)).double()
    average = ExponentialMovingAverage(model, momentum=0.25, update_buffers=update_buffers)
    expected = {}
    for step in range(4):
        randomise(model, step + 10)
        average.update_parameters(model)
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if p.is_floating_point():
                expected[name] = (
                    p.detach().clone() if step == 0 else 0.75 * expected[name] + 0.25 * p.detach()
                )
    layer = average.module[0]
    torch.testing.assert_close(layer.weight, expected['0.weight'], **close)
    torch.testing.assert_close(layer.beta, expected['0.bias'], **close)
    torch.testing.assert_close(layer.bias, expected['0.bias'] + 0.1, **close)
    mean = expected['0.running_mean'] if update_buffers else model[0].running_mean
    torch.testing.assert_close(layer.running_mean, mean, **close)
    assert torch.equal(average.state_dict()['module.0.bias'], layer.bias)


def test_a_step_of_training_after_a_round_trip_is_the_same_step(tmp_path):
    source, target = net(0, channels=50), net(1, channels=50)
    target.load_state_dict(through_mmengine(source, tmp_path / 'c.pth'))
    for model in (source, target):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        model(torch.randn(8, 50, generator=generator(3))).square().sum().backward()
        optimizer.step()
    for ours, theirs in zip(source.parameters(), target.parameters()):
        assert torch.equal(ours, theirs)
