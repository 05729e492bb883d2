"""An optimizer sees beta = b - alpha; psBN is ``BN(x) + alpha`` to it, whichever it is."""

import inspect

import pytest
import torch
from by_formula import assert_same, backward, loss_of, net, pair, psbn
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn, optim

from mmpsbn.functional.decoupled_decay import DECOUPLED_OPTIMIZERS
from mmpsbn.layers import psBN2d

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
@pytest.mark.parametrize('by_keyword', [True, False])
def test_a_closure_sees_b(settings, by_keyword):
    models = pair()
    for model in models:
        optimizer = optim.LBFGS(model.parameters(), max_iter=4, **settings)
        for step in range(4):

            def closure(model=model, step=step):
                return backward(model, step)

            optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
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
