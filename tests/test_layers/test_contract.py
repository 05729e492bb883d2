"""psBN: a BatchNorm to everyone but the optimizer."""

import copy
import math
import pickle
import subprocess
import sys
from inspect import signature

import pytest
import torch
from layer_cases import BATCH_NORMS, CASES, C, make, randomise
from mmengine.analysis import get_model_complexity_info
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from torch import nn

from mmpsbn.layers import psBN2d, psSyncBN
from mmpsbn.upstream import BatchNormBase, NormBase

every_layer = pytest.mark.parametrize('case', CASES)
close = dict(rtol=1e-11, atol=1e-11)


@every_layer
def test_the_parameter_is_b_and_beta_is_computed(case):
    layer, plain, _ = make(case, alpha=0.3)
    parameters = dict(layer.named_parameters())
    assert list(parameters) == [name for name, _ in plain.named_parameters()] == ['weight', 'bias']
    assert parameters['bias'] is layer.bias and type(layer.bias) is nn.Parameter
    assert layer.state_dict(keep_vars=True)['bias'] is layer.bias
    assert torch.equal(layer.beta, layer.bias - 0.3) and 'alpha=0.3' in repr(layer)


@every_layer
def test_class_and_forward_are_torchs(case):
    layer, plain, _ = make(case)
    if case != 'psSyncBN':  # and so it costs what torch's costs
        assert type(layer).forward is type(plain).forward
        assert isinstance(layer, type(plain))
    assert isinstance(layer, BatchNormBase) == (case in BATCH_NORMS)
    assert isinstance(layer, NormBase) == (case != 'psGN')
    assert not isinstance(layer, nn.SyncBatchNorm)


@every_layer
@pytest.mark.parametrize('towards', ['plain', 'psbn'])
def test_a_checkpoint_is_a_batch_norms_and_computes_the_same_on_both_sides(case, towards):
    layer, plain, x = make(case, alpha=0.25)
    assert list(layer.state_dict()) == list(plain.state_dict())
    source, target = (layer, plain) if towards == 'plain' else (plain, layer)
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(layer.state_dict()['bias'], layer.bias)
    outputs = [[who.train()(x), who.eval()(x), *who.buffers()] for who in (source, target)]
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours, theirs)


def test_without_other_ranks_a_synchronised_layer_is_one_pass_of_torchs(monkeypatch):
    layer, x = randomise(psSyncBN(C)), torch.randn(2, C, 3, 3)
    passes = []
    forward = nn.functional.batch_norm
    monkeypatch.setattr(
        nn.functional, 'batch_norm', lambda *args, **kw: passes.append(1) or forward(*args, **kw)
    )
    monkeypatch.setattr(layer, '_forward_gloo', None)
    layer(x), layer.eval()(x)
    assert len(passes) == 2


@every_layer
def test_fresh_layer_has_gamma_1_beta_0_and_b_alpha(case):
    fresh = CASES[case][0]()
    assert torch.equal(fresh.weight, torch.ones(C))
    assert torch.equal(fresh.beta, torch.zeros(C))
    assert torch.equal(fresh.bias, torch.full((C,), 0.1))
    layer = randomise(CASES[case][0]())
    layer.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


@every_layer
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(alpha=0), 'alpha must be > 0 and finite, got 0'),
        (dict(alpha=-0.1), 'alpha must be > 0 and finite, got -0.1'),
        (dict(alpha=math.nan), 'alpha must be > 0 and finite, got nan'),
        (dict(alpha=math.inf), 'alpha must be > 0 and finite, got inf'),
        (dict(affine=False), 'affine=True, got affine=False'),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(case, kwargs, message):
    with pytest.raises(ValueError, match=message):
        CASES[case][0](**kwargs)


def test_sync_form_wants_a_channel_dimension():
    with pytest.raises(ValueError, match='at least 2D input, got 1D'):
        psSyncBN(3)(torch.zeros(3))


@pytest.mark.parametrize('alpha, layer_type', [(0.1, psBN2d), (0.5, psBN2d), (0.0, nn.BatchNorm2d)])
def test_weight_decay_lifts_a_dead_psbn_channel_and_leaves_a_dead_bn_channel(alpha, layer_type):
    eta, decay = 0.5, 0.2
    layer = layer_type(3, **(dict(alpha=alpha) if alpha else {})).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.3, -0.2, 0.1]))
        layer.bias.fill_(-10)  # below zero on every sample: no gradient
    before = (layer.bias / layer.weight.abs()).detach()
    optimizer = torch.optim.SGD(layer.parameters(), lr=eta, weight_decay=decay)
    out = torch.relu(layer(torch.randn(4, 3, 5, 5, dtype=torch.float64)))
    assert out.max() == 0
    out.sum().backward()
    shift = eta * decay / (1 - eta * decay) * alpha / layer.weight.detach().abs()
    optimizer.step()
    torch.testing.assert_close(
        (layer.bias / layer.weight.abs()).detach(), before + shift, rtol=1e-13, atol=1e-13
    )


@every_layer
@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=['deepcopy', 'pickle'],
)
def test_copies_are_independent_and_keep_the_contract(case, clone):
    layer, _, x = make(case, alpha=0.7)
    layer.eval()
    twin = clone(layer)
    assert torch.equal(twin(x), layer(x)) and twin.alpha == 0.7
    with torch.no_grad():
        twin.bias.add_(1)
    assert not torch.equal(twin.bias, layer.bias)
    assert torch.equal(twin.beta, twin.bias - 0.7)


def test_functional_call_takes_b():
    layer, plain, x = make('psBN2d', alpha=0.4)
    ours = torch.func.functional_call(layer, dict(plain.named_parameters()), (x,))
    assert torch.equal(ours, plain(x))


_COMPILED = """
import torch
from torch import nn
from mmpsbn.layers import psBN2d, calls_step_hooks

torch.manual_seed(0)
layer, x = psBN2d(5, alpha=0.4).double().eval(), torch.randn(2, 5, 3, 3, dtype=torch.float64)
compiled = torch.compile(layer, backend='eager', fullgraph=True)
torch.testing.assert_close(compiled(x), layer(x), rtol=1e-10, atol=1e-12)
compiled(x).sum().backward()
torch.testing.assert_close(layer.bias.grad, torch.full((5,), 18.0, dtype=torch.float64))
exported = torch.export.export(nn.Sequential(layer, nn.ReLU()), (x,)).state_dict
assert any(torch.equal(tensor, layer.bias) for tensor in exported.values())

def train(compiled):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), psBN2d(4)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5)
    x = torch.randn(2, 3, 4, 4).double()
    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    run = torch.compile(step, backend='eager') if compiled else step
    for _ in range(4):
        run()
    return model[1].bias.detach()

if calls_step_hooks(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)):
    torch.testing.assert_close(train(False), train(True))
else:
    version = tuple(map(int, torch.__version__.split('.')[:2]))
    assert version < (2, 2), 'step hooks are gone'
"""


def test_compiled_and_exported_code_computes_the_same_and_trains_alike():
    # in a process of its own: torch 2.1 switches optimizer step hooks off once it compiled
    run = subprocess.run([sys.executable, '-c', _COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def small_net(norm):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU()).double().eval()


def with_efficient_bn(model, x):
    whole = nn.Sequential(model)
    turn_on_efficient_conv_bn_eval(whole, '0')
    assert 'forward' in vars(model), 'mmengine has found no BatchNorm: no test'
    return whole(x)


TOOLS = dict(
    script=lambda m, x: torch.jit.script(m)(x),
    trace=lambda m, x: torch.jit.trace(m, x)(x),
    fx=lambda m, x: torch.fx.symbolic_trace(m)(x),
    efficient=with_efficient_bn,
)


@pytest.mark.parametrize('tool', TOOLS)
def test_the_tools_of_torch_and_mmengine_see_a_batch_norm(tool):
    model, x = small_net(psBN2d), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    randomise(model[1])
    expected = model(x)
    torch.testing.assert_close(TOOLS[tool](model, x), expected, **close)


def test_a_trace_holds_b_and_fx_takes_the_layer_for_one_operation():
    model = small_net(psBN2d)
    traced = torch.jit.trace(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert torch.equal(traced.state_dict()['1.bias'], model[1].bias)
    nodes = torch.fx.symbolic_trace(model).graph.nodes
    assert [node.op for node in nodes].count('call_module') == 3
    assert copy.deepcopy(psBN2d(C)).__module__.startswith('torch.nn')
    assert psBN2d.__module__ == 'mmpsbn.layers.psbn'


def test_mmengines_complexity_analysis_and_torchscript_onnx_export(tmp_path):
    model = small_net(psBN2d).float()
    found, expected = (
        get_model_complexity_info(m, (3, 8, 8), show_table=False, show_arch=False)
        for m in (model, small_net(nn.BatchNorm2d).float())
    )
    assert found['flops'] == expected['flops'] > 0 and found['params'] == expected['params']
    legacy = dict(dynamo=False) if 'dynamo' in signature(torch.onnx.export).parameters else {}
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), str(tmp_path / 'm.onnx'), **legacy)
