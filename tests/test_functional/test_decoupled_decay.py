"""Decoupled decay against torch.optim itself, in double precision."""

import copy
import io
import math

import pytest
import torch

from mmpsbn.functional.decoupled_decay import DECOUPLED_OPTIMIZERS, DecoupledAdam, DecoupledSGD

STEPS = 50
# the optimizers of Mehta et al., section 2 and supplement
OPTIMIZERS = {
    'SGD': dict(lr=0.1, momentum=0.9),
    'Adam': dict(lr=1e-3, betas=(0.9, 0.99)),
    'AMSGrad': dict(lr=1e-3, amsgrad=True),
    'Adagrad': dict(lr=1e-2),
    'Adadelta': dict(lr=1.0, rho=0.9, eps=1e-6),
    'RMSprop': dict(lr=1e-3),
    'Adamax': dict(lr=2e-3),
}


def base_of(name):
    return getattr(torch.optim, dict(AMSGrad='Adam').get(name, name))


def decoupled_of(name):
    name = f'Decoupled{base_of(name).__name__}'
    return next(cls for cls in DECOUPLED_OPTIMIZERS if cls.__name__ == name)


def weights():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((5, 3), (4,), ())
    ]


def schedule(step):
    return (1 + math.cos(math.pi * step / STEPS)) / 2


def train(optimizer, params, first=0, last=STEPS, before_step=None):
    """Gradients of a schedule of their own; the weights at the end."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * schedule(step)
        if before_step:
            before_step(step)
        optimizer.step()
    return [param.detach().clone() for param in params]


def with_initial_lr(optimizer):
    """As a scheduler leaves it."""
    for group in optimizer.param_groups:
        group.setdefault('initial_lr', group['lr'])
    return optimizer


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_it_is_the_plain_optimizer_and_a_decay_by_hand(name):
    params, theirs = weights(), weights()
    ours = decoupled_of(name)(params, weight_decay=1e-2, **OPTIMIZERS[name])
    plain = base_of(name)(theirs, **OPTIMIZERS[name])
    assert ours.defaults == plain.defaults | dict(weight_decay=1e-2)

    @torch.no_grad()
    def decay(step):
        for param in theirs:
            param.mul_(1 - 1e-2 * schedule(step))

    a = train(with_initial_lr(ours), params)
    b = train(with_initial_lr(plain), theirs, before_step=decay)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_same_lambda_means_the_same_at_any_learning_rate(name):
    """Mehta's table 1: at the full learning rate 1 - lambda a step."""
    settings = OPTIMIZERS[name]
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = decoupled_of(name)([weight], weight_decay=1e-3, **settings)
    weight.grad = torch.zeros_like(weight)
    for _ in range(10):
        optimizer.step()
    assert weight.item() == pytest.approx((1 - 1e-3) ** 10, rel=1e-14)
    assert optimizer.param_groups[0]['weight_decay'] == 1e-3
    optimizer.param_groups[0]['lr'] = settings['lr'] / 10
    optimizer.step()
    assert weight.item() == pytest.approx((1 - 1e-3) ** 10 * (1 - 1e-4), rel=1e-14)


def test_groups_decay_by_their_own():
    params = weights()
    before = [param.detach().clone() for param in params]
    optimizer = DecoupledSGD(
        [
            dict(params=params[:1], weight_decay=0.5, lr=1e-3),
            dict(params=params[1:2], weight_decay=0.0),
            dict(params=params[2:]),
        ],
        lr=0.1,
        weight_decay=0.1,
    )
    for param in params[:2]:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    torch.testing.assert_close(params[0], before[0] * 0.5)  # not scaled by its learning rate
    assert torch.equal(params[1], before[1])
    assert torch.equal(params[2], before[2])  # no gradient
    assert [group['weight_decay'] for group in optimizer.param_groups] == [0.5, 0.0, 0.1]


@pytest.mark.parametrize('plain_first', [False, True])
def test_step_hooks_run_once_and_see_the_decay(plain_first):
    """Also after an optimizer of the base class was built, which torch then wraps."""
    if plain_first:
        torch.optim.Adadelta(weights(), lr=1.0)
    params = weights()
    optimizer = decoupled_of('Adadelta')(params, lr=1.0, weight_decay=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda o, *_: calls.append(o.param_groups[0]['weight_decay']))
    optimizer.register_step_post_hook(lambda o, *_: calls.append(o.param_groups[0]['weight_decay']))
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert calls == [0.1, 0.1]


def test_a_closure_is_called_once_and_before_the_decay():
    weight = torch.ones(1, requires_grad=True)
    optimizer = DecoupledSGD([weight], lr=0.1, weight_decay=0.5)
    seen = []

    def closure():
        seen.append(weight.item())
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert seen == [1.0]
    assert weight.item() == pytest.approx(0.5 - 0.1 * 2)


def test_a_step_that_fails_keeps_the_settings():
    weight = torch.ones(1, requires_grad=True)
    optimizer = DecoupledSGD([weight], lr=0.1, weight_decay=0.5, momentum=0.9)
    weight.grad = torch.ones(1)
    optimizer.state[weight]['momentum_buffer'] = 'broken'
    with pytest.raises((AttributeError, TypeError)):
        optimizer.step()
    assert optimizer.param_groups[0]['weight_decay'] == 0.5


def test_amp_skips_the_decay_with_the_step():
    weight = torch.ones(1, requires_grad=True)
    optimizer = DecoupledAdam([weight], lr=0.1, weight_decay=0.5)
    scaler = torch.amp.GradScaler('cpu') if hasattr(torch.amp, 'GradScaler') else None
    if scaler is None:
        pytest.skip('this torch has no GradScaler on the CPU')
    scaler.scale(weight.sum() * float('inf')).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.item() == 1.0
    optimizer.zero_grad()
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)
    assert weight.item() == pytest.approx(0.5 - 0.1)


def test_it_copies_and_pickles():
    optimizer = DecoupledAdam(weights(), lr=0.1, weight_decay=0.1)
    twin = copy.deepcopy(optimizer)
    assert type(twin) is DecoupledAdam
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    assert type(torch.load(file, weights_only=False)) is DecoupledAdam


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(weight_decay=1.0), r'DecoupledAdam takes .* must be in \[0, 1\), got 1.0'),
        (dict(lr=0.0), 'lr must be > 0, got 0.0; freeze parameters with requires_grad=False'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DecoupledAdam(weights(), **{'lr': 0.1, **settings})


def test_a_fused_optimizer_is_refused(monkeypatch):
    def init(self, params, **kwargs):
        torch.optim.Optimizer.__init__(
            self, params, dict(lr=0.1, weight_decay=0.1, fused=True, differentiable=False)
        )

    monkeypatch.setattr(torch.optim.Adam, '__init__', init)  # torch 2.1 fuses on CUDA only
    with pytest.raises(ValueError, match='DecoupledAdam has no fused form: use fused=False'):
        DecoupledAdam(weights())
