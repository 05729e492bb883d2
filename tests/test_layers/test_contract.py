"""psBN: a BatchNorm to everyone but the optimizer."""

import copy
import math
import pickle
import subprocess
import sys
from inspect import signature

import pytest
import torch
from layer_cases import BATCH_NORMS, CASES, C, by_hand, make, randomise
from mmengine.analysis import get_model_complexity_info
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from mmpsbn.layers import psBN2d, psIN, psSyncBN

every_layer = pytest.mark.parametrize('case', CASES)
close = dict(rtol=1e-11, atol=1e-11)


@every_layer
def test_the_parameter_is_b_and_beta_is_computed(case):
    layer, plain, _ = make(case, alpha=0.3)
    parameters = dict(layer.named_parameters())
    assert list(parameters) == [name for name, _ in plain.named_parameters()] == ['weight', 'bias']
    assert parameters['bias'] is layer.bias and type(layer.bias) is nn.Parameter
    assert torch.equal(layer.beta, layer.bias - 0.3)
    kept = layer.state_dict(keep_vars=True)
    assert kept['bias'] is layer.bias


@pytest.mark.parametrize('case', [case for case in CASES if case != 'psSyncBN'])
def test_forward_is_torchs(case):
    layer, plain, _ = make(case)
    assert type(layer).forward is type(plain).forward
    assert isinstance(layer, type(plain))


@every_layer
def test_fresh_layer_has_gamma_1_beta_0_and_b_alpha(case):
    layer = CASES[case][0]()
    assert torch.equal(layer.weight, torch.ones(C))
    assert torch.equal(layer.beta, torch.zeros(C))
    assert torch.equal(layer.bias, torch.full((C,), 0.1))
    layer, _, _ = make(case)
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.ones(C).double()) and torch.equal(
        layer.beta, torch.zeros(C).double()
    )
    for name, fresh in CASES[case][0]().named_buffers():
        assert torch.equal(layer.get_buffer(name), fresh.to(layer.get_buffer(name)))


@every_layer
@pytest.mark.parametrize('training', [True, False])
def test_forward_and_gradients_are_those_of_the_formula(case, training):
    layer, _, x = make(case, alpha=0.25)
    layer.train(training)
    gamma, beta = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.beta))
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = by_hand(layer, x2, gamma, beta + 0.25)
    out = layer(x1)
    torch.testing.assert_close(out, expected, **close)
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    (out.sin() * weights).sum().backward()
    (expected.sin() * weights).sum().backward()
    for ours, theirs in ((x1, x2), (layer.weight, gamma), (layer.bias, beta)):
        torch.testing.assert_close(ours.grad, theirs.grad, **close)


@pytest.mark.parametrize('case', BATCH_NORMS + ['psIN-tracked'])
def test_running_statistics_move_as_in_the_plain_layer(case):
    layer, plain, x = make(case)
    plain.load_state_dict(layer.state_dict())
    layer.train()(x), plain.train()(x)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, **close)


@pytest.mark.parametrize('case', BATCH_NORMS)
def test_batch_norm_forms_are_batch_norms_and_not_sync_batch_norms(case):
    layer = CASES[case][0]()
    assert isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
    assert isinstance(psIN(C), nn.InstanceNorm2d) and isinstance(psIN(C), _NormBase)


class FeatureMapOps(TorchDispatchMode):
    """Names of the operations that write something as large as a feature map."""

    def __init__(self, size):
        super().__init__()
        self.size, self.names = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        outs = out if isinstance(out, (tuple, list)) else [out]
        if any(isinstance(o, torch.Tensor) and o.numel() >= self.size for o in outs):
            self.names.append(func.__name__)
        return out


@every_layer
@pytest.mark.parametrize('training', [True, False])
def test_no_extra_pass_and_no_extra_saved_activation(case, training):
    layer, plain, x = make(case)
    x = x.repeat(4, *[1] * (x.dim() - 1))  # clearly larger than a C-vector
    found = {}
    for who in (layer, plain):
        saved = []
        with (
            FeatureMapOps(x.numel()) as ops,
            torch.autograd.graph.saved_tensors_hooks(
                lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
            ),
        ):
            who.train(training)(x.clone().requires_grad_())
        found[who] = ops.names, sorted(n for n in saved if n > C)
        assert found[who][1] and ops.names
    assert found[layer] == found[plain]


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
def test_what_is_written_into_the_bias_is_b(case):
    layer = CASES[case][0](alpha=0.3)
    nn.init.constant_(layer.bias, 5.0)
    torch.testing.assert_close(layer.beta.detach(), torch.full((C,), 4.7))
    layer.bias = nn.Parameter(torch.zeros(C))
    torch.testing.assert_close(layer.beta.detach(), torch.full((C,), -0.3))


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


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_conversion_takes_the_bias_along(dtype):
    layer = psBN2d(C).to(dtype)
    assert layer.beta.dtype == layer.bias.dtype == dtype
    if dtype != torch.float16:  # torch 2.1 has no such kernel on the CPU
        assert layer(torch.randn(2, C, 3, 3, dtype=dtype)).dtype == dtype


def test_functional_call_takes_b():
    layer, _, x = make('psBN2d', alpha=0.4)
    layer.eval()
    parameters = {name: p.detach() * 2 for name, p in layer.named_parameters()}
    expected = by_hand(layer, x, parameters['weight'], parameters['bias'])
    torch.testing.assert_close(
        torch.func.functional_call(layer, parameters, (x,)), expected, **close
    )
    assert torch.equal(torch.func.functional_call(layer, layer.state_dict(), (x,)), layer(x))


_COMPILE = """
import torch
from mmpsbn.layers import psBN2d
torch.manual_seed(0)
layer, x = psBN2d(5, alpha=0.4).double().eval(), torch.randn(2, 5, 3, 3, dtype=torch.float64)
compiled = torch.compile(layer, backend='eager', fullgraph=True)
torch.testing.assert_close(compiled(x), layer(x), rtol=1e-10, atol=1e-12)
compiled(x).sum().backward()
torch.testing.assert_close(layer.bias.grad, torch.full((5,), 18.0, dtype=torch.float64))
exported = torch.export.export(torch.nn.Sequential(layer, torch.nn.ReLU()), (x,)).state_dict
assert any(torch.equal(tensor, layer.bias) for tensor in exported.values())
"""


def test_compiled_and_exported_code_computes_the_same():
    # in a process of its own: torch 2.1 switches optimizer step hooks off once it compiled
    run = subprocess.run([sys.executable, '-c', _COMPILE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_repr_shows_alpha():
    assert 'alpha=0.2' in repr(psBN2d(C, alpha=0.2))


def test_a_meta_layer_has_a_state_dict():
    assert psBN2d(C, device='meta').state_dict()['bias'].is_meta


def small_net(norm):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU()).double().eval()


TOOLS = dict(
    script=lambda m, x: torch.jit.script(m)(x),
    trace=lambda m, x: torch.jit.trace(m, x)(x),
    traced_state=lambda m, x: torch.jit.trace(m, x).state_dict()['1.bias'],
)


@pytest.mark.parametrize('tool', TOOLS)
def test_torchs_tools_see_a_batch_norm(tool):
    model, x = small_net(psBN2d), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    randomise(model[1])
    expected = model[1].bias if tool.endswith('state') else model(x)
    torch.testing.assert_close(TOOLS[tool](model, x), expected, **close)


def test_mmengines_complexity_analysis_and_torchscript_onnx_export(tmp_path):
    model = small_net(psBN2d).float()
    found, expected = (
        get_model_complexity_info(m, (3, 8, 8), show_table=False, show_arch=False)
        for m in (model, small_net(nn.BatchNorm2d).float())
    )
    assert found['flops'] == expected['flops'] > 0 and found['params'] == expected['params']
    legacy = dict(dynamo=False) if 'dynamo' in signature(torch.onnx.export).parameters else {}
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), str(tmp_path / 'm.onnx'), **legacy)


def test_data_parallel_replicas_hold_b():
    model = nn.Sequential(randomise(psBN2d(C)))
    replica = model[0]._replicate_for_data_parallel()
    replica.bias = model[0].bias.detach() * 1
    assert torch.equal(replica.bias, model[0].bias)


def test_fx_and_mmengines_efficient_bn_take_it_for_one_operation():
    model, x = small_net(psBN2d), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    randomise(model[1])
    expected = model(x)
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes].count('call_module') == 3
    torch.testing.assert_close(traced(x), expected, **close)
    whole = nn.Sequential(model)
    turn_on_efficient_conv_bn_eval(whole, '0')
    assert 'forward' in vars(model)
    torch.testing.assert_close(whole(x), expected, **close)
    assert copy.deepcopy(psBN2d(C)).__module__.startswith('torch.nn')
    assert psBN2d.__module__ == 'mmpsbn.layers.psbn'
