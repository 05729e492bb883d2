"""The forecast against an actual run of the optimizer on a dead scalar."""

import math

import pytest
import torch

from mmpsbn.functional.decoupled_decay import DecoupledAdam
from mmpsbn.functional.forecast import decay_settings, log_decay, steps_to_decay

LR = 0.05
OPTIMIZERS = {
    'SGD': (torch.optim.SGD, dict(momentum=0.9, weight_decay=5e-3)),
    'SGD, plain': (torch.optim.SGD, dict(dampening=0.5, weight_decay=5e-2)),
    'SGD, dampened': (torch.optim.SGD, dict(momentum=0.9, dampening=0.5, weight_decay=1e-2)),
    'SGD, nesterov': (torch.optim.SGD, dict(momentum=0.9, nesterov=True, weight_decay=5e-3)),
    'AdamW': (torch.optim.AdamW, dict(weight_decay=5e-2)),
    'NAdam': (torch.optim.NAdam, dict(weight_decay=5e-2, decoupled_weight_decay=True)),
    'DecoupledAdam': (DecoupledAdam, dict(weight_decay=2.5e-3)),
}


def build(name):
    """An optimizer, and the weight that it decays, in double precision."""
    kind, settings = OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    return kind([weight], lr=LR, **settings), weight


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_against_a_run_of_the_optimizer(name):
    """lr x decay is at most 0.3 of (1 - m)^2 here, so that the formula is a few percent off."""
    optimizer, weight = build(name)
    decay, momentum = decay_settings(optimizer, optimizer.param_groups[0])
    lrs = [LR * (1 + math.cos(math.pi * t / 8000)) / 2 for t in range(8000)]
    sizes = []
    for lr in lrs:
        optimizer.param_groups[0]['lr'] = lr
        optimizer.step()
        sizes.append(abs(weight.item()))
    settings = dict(weight_decay=decay, momentum=momentum)
    assert log_decay(lrs, **settings) == pytest.approx(math.log(0.3 / sizes[-1]), rel=0.03)
    collapsed_at = next(t for t, size in enumerate(sizes, start=1) if size < 1e-3)
    assert 1000 < collapsed_at < 7000
    steps = steps_to_decay(math.log(300), lrs, **settings)
    assert steps == pytest.approx(collapsed_at, rel=0.03)


def test_the_time_scales_of_the_design():
    # one CIFAR round: 100 epochs of 391 steps, cosine from 0.1, decay 5e-4, momentum 0.9
    steps = 39_100
    cifar = [0.05 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    round_of = dict(weight_decay=5e-4, momentum=0.9)
    assert log_decay(cifar, **round_of) == pytest.approx(9.8, abs=0.03)
    needed = steps_to_decay(5.7, cifar, **round_of)
    assert log_decay(cifar[:needed], **round_of) == pytest.approx(5.7, abs=1e-3)
    # RetinaNet 1x: 12 epochs of 7,330 steps, drops after 8 and 11, decay 1e-4
    epoch = 7330
    coco = [0.01] * (8 * epoch) + [1e-3] * (3 * epoch) + [1e-4] * epoch
    retinanet = dict(weight_decay=1e-4, momentum=0.9)
    assert log_decay(coco, **retinanet) == pytest.approx(0.61, abs=0.005)
    assert steps_to_decay(5.7, coco, **retinanet) is None


def test_what_is_reached_with_the_last_step_is_reached():
    settings = dict(weight_decay=0.5, momentum=0.5)  # 1 a step
    assert steps_to_decay(2.0, [1.0] * 2, **settings) == 2
    assert steps_to_decay(2.0, [1.0], **settings) is None
    assert steps_to_decay(2.0, [], **settings) is None
    assert steps_to_decay(2.0, [1.0] * 2, weight_decay=0.0, momentum=0.5) is None


class OwnSGD(torch.optim.SGD):
    """Perhaps with another update."""


@pytest.mark.parametrize(
    'kind', [OwnSGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.NAdam]
)
def test_of_other_optimizers_nothing_is_claimed(kind):
    optimizer = kind([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert decay_settings(optimizer, dict(weight_decay=0.1) | optimizer.param_groups[0]) is None
