"""An optimizer sees beta = b - alpha; psBN is ``BN(x) + alpha`` to it, whichever it is."""

import inspect

import pytest
import torch
from by_formula import ByTheFormula, assert_same_after, backward, loss_of, net, psbn, run
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
    assert_same_after(lambda model: run(model, OPTIMIZERS[name](model.parameters()), 30))


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


class DecayedAfterwards(optim.SGD):
    """A subclass of an optimizer that goes on after its base's step."""

    def step(self, closure=None):
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group['params']:
                    p.mul_(0.9)


def by_closure(optimizer, by_keyword=False):
    """Trains with a closure for each step."""

    def train(model):
        kind = optimizer(model.parameters())
        for step in range(6):
            backward(model, step)

            def closure(step=step):
                return backward(model, step)

            kind.step(closure=closure) if by_keyword else kind.step(closure)

    return train


def wrapped(model):
    run(model, Lookahead(optim.Adam(model.parameters(), 1e-2, weight_decay=0.1)), 10)


def derived(model):
    optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # after that its step has hooks of its own
    run(model, DecayedAfterwards(model.parameters(), lr=0.05, momentum=0.9), 10)


def accumulated(model):
    inner = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
    wrapper = OptimWrapper(inner, accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 9)
    for step in range(9):
        wrapper.update_params(loss_of(model, step))


def by_two_optimizers(model):
    wrapper = OptimWrapperDict(
        first=OptimWrapper(optim.SGD(model[:2].parameters(), 0.05, weight_decay=0.1)),
        second=OptimWrapper(optim.AdamW(model[2:].parameters(), 1e-2, weight_decay=0.5)),
    )
    for step in range(6):
        backward(model, step)
        wrapper['first'].step(), wrapper['second'].step()


WAYS = {
    'LBFGS': by_closure(lambda p: optim.LBFGS(p, max_iter=4, lr=0.1)),
    'LBFGS, by keyword': by_closure(lambda p: optim.LBFGS(p, max_iter=4, lr=0.1), True),
    'LBFGS, line search': by_closure(
        lambda p: optim.LBFGS(p, max_iter=4, line_search_fn='strong_wolfe')
    ),
    'an optimizer within an optimizer, and a closure': by_closure(
        lambda p: SharpnessAware(p, lr=0.05, momentum=0.9, weight_decay=0.1)
    ),
    'a wrapper': wrapped,
    'a step that calls its base class step': derived,
    'gradient accumulation': accumulated,
    'two optimizers of one model': by_two_optimizers,
}


@pytest.mark.parametrize('way', WAYS)
def test_it_shifts_once_in_every_way_of_stepping(way):
    assert_same_after(WAYS[way])


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='a CPU GradScaler needs torch 2.3')
def test_a_grad_scaler_and_the_steps_it_skips():
    def train(model):
        optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
        scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
        for step in range(5):
            before = [p.detach().clone() for p in model.parameters()]
            model.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if step in (1, 2):
                model[0].weight.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            still = all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
            assert still is (step in (1, 2))

    assert_same_after(train)


def test_what_an_optimizer_keeps_of_the_weights_is_beta():
    averages = []
    for model in (net(psbn), net(ByTheFormula)):
        optimizer = optim.ASGD(model.parameters(), lr=0.05, t0=0)
        run(model, optimizer, 5)
        averages.append(optimizer.state[model[1].bias]['ax'])
    torch.testing.assert_close(*averages)


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
