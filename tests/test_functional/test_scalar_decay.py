"""Scalar decay against torch.optim itself, in double precision."""

import math

import pytest
import torch

from mmpsbn.analysis import theory
from mmpsbn.functional.decoupled_decay import DecoupledAdadelta, DecoupledSGD
from mmpsbn.functional.scalar_decay import RULES, decay_curve

STEPS = 400
OPTIMIZERS = {  # the learning rates of Mehta's figure 4, and what else an optimizer can be told
    'SGD': (torch.optim.SGD, dict(lr=0.1)),
    'SGD momentum': (torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    'SGD dampening': (torch.optim.SGD, dict(lr=0.1, momentum=0.8, dampening=0.3)),
    'SGD nesterov': (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    'Adam': (torch.optim.Adam, dict(lr=1e-3, betas=(0.9, 0.99))),
    'AMSGrad': (torch.optim.Adam, dict(lr=1e-3, amsgrad=True)),
    'AdamW': (torch.optim.AdamW, dict(lr=1e-3)),
    'DecoupledSGD': (DecoupledSGD, dict(lr=0.1, momentum=0.9)),
    'DecoupledAdadelta': (DecoupledAdadelta, dict(lr=1.0)),
    'Adagrad': (torch.optim.Adagrad, dict(lr=1e-2)),
    'Adagrad decay': (
        torch.optim.Adagrad,
        dict(lr=1e-2, lr_decay=0.01, initial_accumulator_value=0.1),
    ),
    'Adadelta': (torch.optim.Adadelta, dict(lr=1.0)),
    'RMSprop': (torch.optim.RMSprop, dict(lr=1e-3)),
    'RMSprop centered': (torch.optim.RMSprop, dict(lr=1e-3, centered=True, momentum=0.5)),
    'Adamax': (torch.optim.Adamax, dict(lr=2e-3)),
}


def cosine(lr):
    return [lr * (1 + math.cos(math.pi * t / STEPS)) / 2 for t in range(STEPS)]


def torch_curve(optimizer, weight, lrs, gradients):
    curve = [weight.item()]
    for lr, grad in zip(lrs, gradients):
        optimizer.param_groups[0]['lr'] = lr
        weight.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        curve.append(weight.item())
    return curve


@pytest.mark.parametrize('live', [False, True], ids=['dead', 'live'])
@pytest.mark.parametrize('weight_decay', [1e-2, 1e-4])
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_each_rule_is_torch_optim(name, weight_decay, live):
    build, settings = OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    optimizer = build([weight], weight_decay=weight_decay, **settings)
    gradients = (1e-4 * torch.randn(STEPS, generator=torch.Generator().manual_seed(0))).tolist()
    expected = torch_curve(
        optimizer, weight, cosine(settings['lr']), gradients if live else [0.0] * STEPS
    )
    curve = decay_curve(
        'Adam' if name == 'AdamW' else build.__name__.removeprefix('Decoupled'),
        start=0.3,
        lrs=cosine(settings['lr']),
        initial_lr=settings['lr'],
        # torch's AdamW multiplies with the rate itself
        weight_decay=weight_decay * (settings['lr'] if name == 'AdamW' else 1),
        decoupled='W' in name or 'Decoupled' in name,
        settings=optimizer.param_groups[0],
        gradients=gradients if live else None,
    )
    assert curve == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_every_rule_is_compared_with_torch():
    names = {build.__name__.removeprefix('Decoupled') for build, _ in OPTIMIZERS.values()}
    assert names == {*RULES, 'AdamW'}


@pytest.mark.parametrize('first', [0.0, 1e-4])
def test_a_warmup_decays_less_than_what_follows_as_in_the_optimizer(first):
    weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = DecoupledSGD([weight], lr=0.1, weight_decay=1e-3)
    optimizer.param_groups[0]['initial_lr'] = 0.1
    lrs = [first, 0.05, 0.1]
    curve = decay_curve(
        'SGD',
        start=1.0,
        lrs=lrs,
        initial_lr=0.1,
        weight_decay=1e-3,
        decoupled=True,
        settings=optimizer.param_groups[0],
        gradients=None,
    )
    assert curve == pytest.approx(torch_curve(optimizer, weight, lrs, [0.0] * 3), rel=1e-12)
    assert curve[-1] == pytest.approx((1 - first * 1e-2) * (1 - 5e-4) * (1 - 1e-3), rel=1e-12)


@pytest.mark.parametrize('name', theory.OPTIMIZERS)
def test_decoupled_decay_is_the_papers_with_every_optimizer(name):
    """(1 - 1e-4)^10,000 = 0.368 at any learning rate (section 2.1)."""
    curve = theory.predicted_decay(
        name, weight_decay=1e-4, decoupled=True, num_steps=10_000, gradients=None
    )
    assert curve[-1] == pytest.approx(math.exp(-1), rel=1e-4)


def test_what_is_no_rule_is_named():
    arguments = dict(start=1.0, lrs=[0.1], weight_decay=0.1, decoupled=False, gradients=None)
    with pytest.raises(ValueError, match='initial_lr must be > 0, got 0.0'):
        decay_curve('SGD', settings={}, initial_lr=0.0, **arguments)
    arguments['initial_lr'] = 0.1
    with pytest.raises(ValueError, match="rule must be one of .*'Adam'.*, got 'Lion'"):
        decay_curve('Lion', settings={}, **arguments)
    with pytest.raises(ValueError, match=r"SGD needs .* missing are \['dampening', 'nesterov'\]"):
        decay_curve('SGD', settings=dict(momentum=0.9), **arguments)
