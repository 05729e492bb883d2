"""Steps that raise, and what is called in the midst of a step."""

import copy
import pickle
import threading

import pytest
import torch
from by_formula import ALPHA, assert_same_after, loss_of, net, psbn, run
from torch import nn, optim


class Interrupted(optim.Optimizer):
    """Its first step is interrupted."""

    interrupted = False

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self):
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt


USES = dict(
    state_dict=lambda model, optimizer: model.state_dict(),
    load=lambda model, optimizer: model.load_state_dict(copy.deepcopy(model.state_dict())),
    retry=lambda model, optimizer: optimizer.step(),
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

    retries = False

    def step(self, closure=None):
        try:
            super().step(lambda: 1 / 0)
        except ZeroDivisionError:
            if self.retries:
                super().step()


@pytest.mark.parametrize('retries', [True, False])
def test_an_inner_step_that_raises_and_is_caught(retries):
    optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # after that its step has hooks of its own
    model = net(psbn)
    before = model[1].bias.detach().clone()
    optimizer = FallsBack(model.parameters(), lr=0.1)
    optimizer.retries = retries
    optimizer.step()
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


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize('call', [lambda function: function(), in_a_thread])
def test_modules_that_are_called_in_a_step_do_not_end_it(call):
    def train(model):
        optimizer = WithAModule(model.parameters())
        other = nn.Identity()

        def hook(*_):
            call(lambda: other(torch.zeros(1)))

        optimizer.register_step_pre_hook(hook)
        run(model, optimizer, 5)

    assert_same_after(train)


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
