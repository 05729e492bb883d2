"""An optimizer sees beta = b - alpha; psBN is ``BN(x) + alpha`` to it, whichever it is."""

import copy
import inspect
import pickle
import subprocess
import sys

import pytest
import torch
from layer_cases import C, generator, randomise
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn, optim
from torch.nn.utils import parametrize, prune

from mmpsbn.functional.decoupled_decay import DECOUPLED_OPTIMIZERS
from mmpsbn.layers import (
    alpha_of,
    calls_step_hooks,
    convert_from_psbn,
    convert_to_psbn,
    psBN2d,
)

ALPHA = 0.25
OPTIMIZERS = {
    'SGD': lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.05, nesterov=True),
    'SGD, no decay': lambda p: optim.SGD(p, 0.05),
    'Adam': lambda p: optim.Adam(p, 1e-2, weight_decay=0.05),
    'Adam, one by one': lambda p: optim.Adam(p, 1e-2, weight_decay=0.05, foreach=False),
    'AdamW': lambda p: optim.AdamW(p, 1e-2, weight_decay=0.5, amsgrad=True),
    'AdamW, foreach': lambda p: optim.AdamW(p, 1e-2, weight_decay=0.5, foreach=True),
    'Adamax': lambda p: optim.Adamax(p, 1e-2, weight_decay=0.05),
    'NAdam': lambda p: optim.NAdam(p, 1e-2, weight_decay=0.05),
    'RAdam': lambda p: optim.RAdam(p, 1e-2, weight_decay=0.05),
    'RMSprop': lambda p: optim.RMSprop(p, 1e-3, weight_decay=0.05),
    'Adadelta': lambda p: optim.Adadelta(p, 1.0, weight_decay=0.05),
    'Adagrad': lambda p: optim.Adagrad(p, 1e-2, weight_decay=0.05),
    'ASGD': lambda p: optim.ASGD(p, 1e-2, weight_decay=0.05),
    'Rprop': lambda p: optim.Rprop(p, 1e-4),
} | {
    kind.__name__: lambda p, kind=kind: kind(p, lr=1e-2, weight_decay=0.05)
    for kind in DECOUPLED_OPTIMIZERS
}
if hasattr(optim, 'Adafactor'):  # torch 2.5
    OPTIMIZERS['Adafactor'] = lambda p: optim.Adafactor(p, 1e-2, weight_decay=0.1)
if 'fused' in inspect.signature(optim.SGD).parameters:  # torch 2.3: on the CPU too
    OPTIMIZERS['SGD, fused'] = lambda p: optim.SGD(
        p, 0.05, momentum=0.9, weight_decay=0.05, fused=True
    )
    OPTIMIZERS['AdamW, fused'] = lambda p: optim.AdamW(p, 1e-2, weight_decay=0.5, fused=True)


class ByTheFormula(nn.BatchNorm2d):
    """The paper's layer: beta is the parameter, alpha comes on top."""

    def forward(self, x):
        return super().forward(x) + ALPHA


def net(norm):
    torch.manual_seed(0)
    # a bias in front of a norm has a gradient of rounding errors, which Adam makes large
    convs = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False)
    return nn.Sequential(convs[0], norm(8), nn.ReLU(), convs[1], norm(4), nn.ReLU()).double()


def psbn(channels):
    return psBN2d(channels, alpha=ALPHA, dtype=torch.float64)


def pair():
    return net(psbn), net(ByTheFormula)


def loss_of(model, step=0):
    draw = generator(step)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=draw)
    y = torch.rand(4, 4, 4, 4, dtype=torch.float64, generator=draw)
    return (model(x) - y).square().mean()


def backward(model, step=0):
    model.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    return loss


def assert_same(ours, formula, **tolerance):
    tolerance = tolerance or dict(rtol=1e-9, atol=1e-11)
    for (name, p), q in zip(ours.named_parameters(), formula.parameters()):
        shift = 0 if alpha_of(p) is None else ALPHA
        torch.testing.assert_close(p - shift, q, msg=lambda m, n=name: f'{n}: {m}', **tolerance)
    moved = ours[1].bias.detach() - ALPHA
    assert moved.abs().max() > 0, 'beta has not moved: no test'


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_does_to_beta_what_it_does_in_the_formula(name):
    models = pair()
    for model in models:
        optimizer = OPTIMIZERS[name](model.parameters())
        for step in range(30):
            backward(model, step)
            optimizer.step()
    assert_same(*models)


@pytest.mark.parametrize('settings', [dict(lr=0.1), dict(line_search_fn='strong_wolfe')])
def test_a_closure_sees_b(settings):
    models = pair()
    for model in models:
        optimizer = optim.LBFGS(model.parameters(), max_iter=4, **settings)
        for step in range(4):
            optimizer.step(lambda model=model, step=step: backward(model, step))
    assert_same(*models)


class SharpnessAware(optim.Optimizer):
    """SAM (2010.01412): the gradient where the loss is highest nearby; with a closure."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, dict(rho=0.05))
        self.inner = optim.SGD(self.param_groups, **settings)

    def step(self, closure):
        parameters = [p for group in self.param_groups for p in group['params']]
        before = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in parameters]).norm()
            for p in parameters:
                p.add_(p.grad, alpha=0.05 / float(norm))
        with torch.enable_grad():
            closure()
        for p, value in zip(parameters, before):
            p.data = value
        self.inner.step()


def test_an_optimizer_within_an_optimizer_and_a_closure_shift_once():
    models = pair()
    for model in models:
        optimizer = SharpnessAware(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        for step in range(10):
            backward(model, step)
            optimizer.step(lambda model=model, step=step: backward(model, step))
    assert_same(*models)


class Lookahead(optim.Optimizer):
    """Slow weights (1907.08610) around an optimizer, kept from its first step on."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.slow = inner, None

    def step(self):
        parameters = [p for group in self.param_groups for p in group['params']]
        self.slow = self.slow or [p.detach().clone() for p in parameters]
        self.inner.step()
        with torch.no_grad():
            for p, slow in zip(parameters, self.slow):
                p.copy_(slow.lerp_(p, 0.5))


def test_a_wrapper_optimizer_shifts_once():
    models = pair()
    for model in models:
        optimizer = Lookahead(optim.Adam(model.parameters(), 1e-2, weight_decay=0.1))
        for step in range(10):
            backward(model, step)
            optimizer.step()
    assert_same(*models)


class DecayedAfterwards(optim.SGD):
    """A subclass of an optimizer that goes on after its base's step."""

    def step(self, closure=None):
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group['params']:
                    p.mul_(0.9)


def test_a_step_that_calls_its_base_class_step():
    optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # after that its step has hooks of its own
    models = pair()
    for model in models:
        optimizer = DecayedAfterwards(model.parameters(), lr=0.05, momentum=0.9)
        for step in range(10):
            backward(model, step)
            optimizer.step()
    assert_same(*models)


def test_what_an_optimizer_keeps_of_the_weights_is_beta():
    models = pair()
    averages = []
    for model in models:
        optimizer = optim.ASGD(model.parameters(), lr=0.05, t0=0)
        for step in range(5):
            backward(model, step)
            optimizer.step()
        averages.append(optimizer.state[model[1].bias]['ax'])
    torch.testing.assert_close(*averages)


def test_gradient_accumulation():
    models = pair()
    for model in models:
        inner = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
        wrapper = OptimWrapper(inner, accumulative_counts=3)
        wrapper.initialize_count_status(model, 0, 9)
        for step in range(9):
            wrapper.update_params(loss_of(model, step))
    assert_same(*models)


def test_two_optimizers_of_one_model():
    models = pair()
    for model in models:
        wrapper = OptimWrapperDict(
            first=OptimWrapper(optim.SGD(model[:2].parameters(), 0.05, weight_decay=0.1)),
            second=OptimWrapper(optim.AdamW(model[2:].parameters(), 1e-2, weight_decay=0.5)),
        )
        for step in range(6):
            backward(model, step)
            wrapper['first'].step(), wrapper['second'].step()
    assert_same(*models)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='a CPU GradScaler needs torch 2.3')
@pytest.mark.parametrize('overflow', [(), (1, 2)])
def test_a_grad_scaler_and_the_steps_it_skips(overflow):
    models = pair()
    for model in models:
        optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
        scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
        for step in range(5):
            before = [p.detach().clone() for p in model.parameters()]
            model.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if step in overflow:
                model[0].weight.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            still = all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
            assert still is (step in overflow)
    assert_same(*models)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='AmpOptimWrapper needs a GPU')
def test_amp_optim_wrapper_on_a_gpu():
    models = [model.float().cuda() for model in pair()]
    for model in models:
        inner = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
        wrapper = AmpOptimWrapper(optimizer=inner)
        for step in range(5):
            wrapper.update_params(loss_of(model.double().float(), step))
    assert_same(*models, rtol=1e-2, atol=1e-3)


def test_a_step_that_does_not_move_beta_leaves_b_bit_for_bit():
    layer = psBN2d(4000)
    with torch.no_grad():  # of all sizes, so that b - alpha + alpha is not b
        layer.bias.copy_(10 ** torch.linspace(-12, 3, 4000)).mul_((-1) ** torch.arange(4000))
        layer.bias[0] = 0
    before = layer.bias.detach().clone()
    assert not torch.equal(before - layer.alpha + layer.alpha, before)
    optimizers = [
        optim.SGD(layer.parameters(), lr=0.0, momentum=0.9, weight_decay=0.1),
        optim.AdamW(layer.parameters(), lr=0.0),
        optim.Adam([layer.bias], lr=0.1),  # without a gradient
    ]
    layer(torch.randn(2, 4000, 2, 2)).sum().backward()
    for optimizer in optimizers:
        if optimizer is optimizers[-1]:
            layer.zero_grad()
        optimizer.step()
        assert torch.equal(layer.bias, before)


def test_a_resumed_run_is_bit_equal(tmp_path):
    def run(model, optimizer, steps):
        for step in steps:
            backward(model, step)
            optimizer.step()

    def start():
        model = net(psbn)
        return model, optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)

    whole, optimizer = start()
    run(whole, optimizer, range(6))
    first, optimizer = start()
    run(first, optimizer, range(3))
    torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / 'c.pth')
    resumed, optimizer = start()
    for part, state in zip((resumed, optimizer), torch.load(tmp_path / 'c.pth')):
        part.load_state_dict(state)
    run(resumed, optimizer, range(3, 6))
    for p, q in zip(resumed.parameters(), whole.parameters()):
        assert torch.equal(p, q)


class Interrupted(optim.Optimizer):
    """Its first step is interrupted."""

    interrupted = False

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self):
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt


def retry(model, optimizer):
    optimizer.step()


def load(model, optimizer):
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})


USES = dict(
    state_dict=lambda model, optimizer: model.state_dict(),
    load=load,
    retry=retry,
    forward=lambda model, optimizer: model(torch.zeros(1, 3, 8, 8, dtype=torch.float64)),
    deepcopy=lambda model, optimizer: copy.deepcopy(model),
    pickle=lambda model, optimizer: pickle.loads(pickle.dumps(model)),
)


@pytest.mark.parametrize('use', USES)
def test_after_a_step_that_raises_nobody_sees_beta(use):
    model = net(psbn).eval()
    optimizer = Interrupted(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert not torch.equal(model[1].bias, before[1]), 'the step has ended: no test'
    found = USES[use](model, optimizer)
    for who in (model, *([found] if isinstance(found, nn.Module) else [])):
        for p, q in zip(who.parameters(), before):
            assert torch.equal(p, q)
    assert not nn.modules.module._global_forward_pre_hooks, 'the watch for raising steps goes on'


def test_weights_that_are_loaded_after_a_step_that_raises_stay_as_they_are():
    model = net(psbn)
    best = {k: v.clone() + 1 for k, v in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        Interrupted(model.parameters()).step()
    model.load_state_dict(best)
    loss_of(model)
    assert torch.equal(model[1].bias, best['1.bias'])
    with pytest.raises(KeyboardInterrupt):
        Interrupted(model.parameters()).step()
    model[1].reset_parameters()
    loss_of(model)
    assert torch.equal(model[1].bias, torch.full_like(model[1].bias, ALPHA))


class FallsBack(optim.SGD):
    """Its base's step raises at first, and is caught."""

    def step(self, closure=None):
        try:
            super().step(lambda: 1 / 0)
        except ZeroDivisionError:
            super().step()


def test_an_inner_step_that_raises_and_is_caught():
    optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # after that its step has hooks of its own
    model = net(psbn)
    before = model[1].bias.detach().clone()
    FallsBack(model.parameters(), lr=0.1).step()
    assert torch.equal(model[1].bias, before)


class WithAModule(optim.Optimizer):
    """An optimizer that computes with a module, as learned ones do."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.rule = nn.Identity()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                p.sub_(self.rule(0.1 * p.grad + 0.05 * p))


def test_modules_that_are_called_in_a_step_do_not_end_it():
    models = pair()
    for model in models:
        optimizer = WithAModule(model.parameters())
        optimizer.register_step_pre_hook(lambda *_, model=model: (model.state_dict(), None)[1])
        for step in range(5):
            backward(model, step)
            optimizer.step()
    assert_same(*models)


@pytest.mark.parametrize('settings', [{}, dict(line_search_fn='strong_wolfe')])
def test_a_closure_that_raises(settings):
    model = net(psbn)
    before = model[1].bias.detach().clone()

    def closure():
        raise ValueError('no batch')

    with pytest.raises(ValueError, match='no batch'):
        optim.LBFGS(model.parameters(), **settings).step(closure)
    assert torch.equal(model.state_dict()['1.bias'], before)
    assert torch.equal(model[1].bias, before)


_ONE_PROCESS = """
import warnings
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from mmpsbn.layers import psBN2d
import mmpsbn

assert not _global_optimizer_pre_hooks, 'a process without psBN has hooks'

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), psBN2d(4), nn.Conv2d(4, 2, 1))

def train(model, optimizers, steps=3):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(steps):
            model(torch.randn(2, 3, 4, 4)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    return [str(w.message) for w in caught if 'psBN' in str(w.message)]

model = net()
if COPIES:
    copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    found = train(model, [torch.optim.SGD(copies, 0.1)])
    assert len(found) == 1 and '1 psBN layers are being trained' in found[0], found
else:
    first, second = (torch.optim.SGD(part.parameters(), 0.1) for part in (model[2], model[:2]))
    model[1].requires_grad_(False)
    assert not train(model, [first])
    model[1].requires_grad_(True)
    assert not train(model, [first, second])
"""


@pytest.mark.parametrize('copies', [True, False])
def test_a_plain_loop_warns_once_where_no_optimizer_holds_the_biases(copies):
    code = _ONE_PROCESS.replace('COPIES', repr(copies))
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


_COMPILED = """
import torch
from torch import nn
from mmpsbn.layers import psBN2d, calls_step_hooks

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

plain, compiled = train(False), train(True)
if calls_step_hooks(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)):
    torch.testing.assert_close(plain, compiled)
else:
    assert torch.__version__ < '2.2', 'step hooks are gone'
"""


def test_a_compiled_training_step():
    # in a process of its own: torch 2.1 switches optimizer step hooks off once it compiled
    run = subprocess.run([sys.executable, '-c', _COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert calls_step_hooks(optim.SGD([nn.Parameter(torch.zeros(1))], 0.1))


def decayed(layer):
    """The bias after a long decay without a gradient."""
    optimizer = optim.SGD(layer.parameters(), lr=0.5, weight_decay=1.0)
    for _ in range(60):
        for p in layer.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    return layer.bias.detach()


def assigned(layer):
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    return layer


def by_swapping(layer):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return layer.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def overwritten(layer):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return layer.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def put(layer):
    layer.bias = nn.Parameter(torch.full((C,), 3.0))
    return layer


def through_meta(layer):
    state = layer.state_dict()
    layer = layer.to('meta').to_empty(device='cpu')
    layer.load_state_dict({k: torch.nan_to_num(v) for k, v in state.items()})
    return layer


NEW_PARAMETERS = dict(
    deepcopy=copy.deepcopy,
    double=lambda layer: layer.double(),
    overwritten=overwritten,
    assigned=assigned,
    empty=through_meta,
    skip_init=lambda layer: randomise(nn.utils.skip_init(psBN2d, C)),
    put=put,
    pickled=lambda layer: pickle.loads(pickle.dumps(layer)),
)
if hasattr(torch.__future__, 'set_swap_module_params_on_conversion'):  # torch 2.2
    NEW_PARAMETERS['swapped'] = by_swapping


@pytest.mark.parametrize('name', NEW_PARAMETERS)
@pytest.mark.parametrize(
    'then',
    [lambda layer: layer, nn.SyncBatchNorm.convert_sync_batchnorm],
    ids=['psBN', 'SyncBatchNorm'],
)
def test_decay_leads_to_alpha_wherever_torch_makes_another_parameter(name, then):
    bias = decayed(then(NEW_PARAMETERS[name](randomise(psBN2d(C)))))
    torch.testing.assert_close(bias, torch.full_like(bias, 0.1), rtol=1e-6, atol=1e-6)


def test_decay_leads_to_alpha_behind_a_pruning_mask_and_a_parametrization():
    masked = prune.custom_from_mask(randomise(psBN2d(C)), 'bias', torch.ones(C))
    decayed(masked)
    masked(torch.zeros(2, C, 2, 2))  # which computes bias
    torch.testing.assert_close(masked.bias.detach(), torch.full((C,), 0.1))
    layer = randomise(psBN2d(C))
    parametrize.register_parametrization(layer, 'bias', nn.Identity())
    torch.testing.assert_close(decayed(layer), torch.full((C,), 0.1))


def test_what_a_masked_bias_is_computed_from_keeps_its_alpha():
    masked = prune.custom_from_mask(randomise(psBN2d(C)), 'bias', torch.ones(C))
    before = masked.bias_orig
    assigned(masked)
    assert masked.bias_orig is not before and alpha_of(masked.bias_orig) == 0.1


def test_tied_biases_decay_to_alpha():
    first, second = psBN2d(C), psBN2d(C)
    second.bias = first.bias
    torch.testing.assert_close(decayed(nn.Sequential(first, second)[0]), torch.full((C,), 0.1))


def test_a_converted_model_and_one_that_is_converted_back():
    model = nn.Sequential(randomise(nn.BatchNorm2d(C)))
    optimizer = optim.SGD(model.parameters(), lr=0.5, weight_decay=1.0)
    for convert, alpha in (
        (lambda m: convert_to_psbn(m, alpha=0.3), 0.3),
        (convert_from_psbn, 0.0),
    ):
        convert(model)
        for _ in range(60):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        torch.testing.assert_close(model[0].bias.detach(), torch.full((C,), alpha))
