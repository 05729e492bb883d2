"""The forecast against an actual run of the optimizer on a dead scalar."""

import math

import pytest
import torch

from mmpsbn.functional.forecast import forecast_collapse, sgd_log_decay
from mmpsbn.functional.scalar_decay import rule_of

OPTIMIZERS = {
    'SGD': (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=2e-2)),
    'Adam': (torch.optim.Adam, dict(lr=1e-3, weight_decay=1e-4)),
    'AdamW': (torch.optim.AdamW, dict(lr=1e-2, weight_decay=0.5)),
    'RMSprop': (torch.optim.RMSprop, dict(lr=1e-3, weight_decay=1e-4)),
}


def optimizer_of(build, settings, weight=None):
    weight = torch.nn.Parameter(torch.zeros(())) if weight is None else weight
    return build([weight], **settings)


def forecast_of(optimizer, lrs, gamma=0.3, threshold=1e-3):
    rule, decoupled = rule_of(optimizer)
    group = optimizer.param_groups[0]
    return forecast_collapse(
        rule,
        gamma=gamma,
        threshold=threshold,
        lrs=lrs,
        weight_decay=group['weight_decay'],
        decoupled=decoupled,
        settings=group,
    )


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_against_a_run_of_the_optimizer(name):
    build, settings = OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    optimizer = optimizer_of(build, settings, weight)
    lrs = [settings['lr'] * (1 + math.cos(math.pi * t / 3000)) / 2 for t in range(3000)]
    weight.grad = torch.zeros_like(weight)
    sizes = []
    for lr in lrs:
        optimizer.param_groups[0]['lr'] = lr
        optimizer.step()
        sizes.append(abs(weight.item()))
    forecast = forecast_of(optimizer, lrs)
    collapsed_at = next(t for t in range(3000) if max(sizes[t:]) < 1e-3) + 1
    assert forecast.steps_to_collapse == collapsed_at
    # where nothing is left but rounding, the logarithm is that of rounding
    assert min(forecast.log_decay, 20) == pytest.approx(
        min(math.log(0.3 / sizes[-1]) if sizes[-1] else math.inf, 20), rel=1e-6
    )


def test_the_time_scales_of_the_design():
    # one CIFAR round: 100 epochs of 391 steps, cosine from 0.1, decay 5e-4, momentum 0.9
    steps = 39_100
    cifar = [0.05 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    assert sgd_log_decay(cifar, weight_decay=5e-4, momentum=0.9) == pytest.approx(9.8, abs=0.03)
    # RetinaNet 1x: 12 epochs of 7,330 steps, drops after 8 and 11, decay 1e-4
    epoch = 7330
    coco = [0.01] * (8 * epoch) + [1e-3] * (3 * epoch) + [1e-4] * epoch
    assert sgd_log_decay(coco, weight_decay=1e-4, momentum=0.9) == pytest.approx(0.61, abs=0.005)

    seen = forecast_of(
        optimizer_of(torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=5e-4)), cifar
    )
    assert seen.log_decay == pytest.approx(9.8, abs=0.05)
    needed = cifar[: seen.steps_to_collapse]
    assert sgd_log_decay(needed, weight_decay=5e-4, momentum=0.9) == pytest.approx(5.7, abs=0.02)
    unseen = forecast_of(
        optimizer_of(torch.optim.SGD, dict(lr=0.01, momentum=0.9, weight_decay=1e-4)), coco
    )
    assert unseen.steps_to_collapse is None and unseen.num_steps == 87_960
    assert unseen.log_decay == pytest.approx(0.61, abs=0.005)


def test_adam_with_l2_and_adamw_differ_by_orders_of_magnitude():
    lrs, settings = [1e-3] * 90_000, dict(lr=1e-3, weight_decay=1e-4)
    l2 = forecast_of(optimizer_of(torch.optim.Adam, settings), lrs)
    assert 300 < l2.steps_to_collapse < 2000
    decoupled = forecast_of(optimizer_of(torch.optim.AdamW, settings), lrs)
    assert decoupled.steps_to_collapse is None
    # 0.009 over the whole run: the 5.7 that collapse needs would take 57 million steps
    assert decoupled.log_decay == pytest.approx(90_000 * 1e-7, rel=1e-3)


def test_a_weight_that_swings_has_collapsed_only_when_it_stays_below():
    # w: 1, 0.5, -0.4, ... by hand: 1.85 * 0.5 - ... : lr lambda = 0.5, momentum 0.9
    settings = dict(lr=1.0, momentum=0.9, weight_decay=0.5)
    forecast = forecast_of(optimizer_of(torch.optim.SGD, settings), [1.0] * 200, 1.0, 0.3)
    weights = [1.0, 0.5]
    for _ in range(199):
        weights.append(1.4 * weights[-1] - 0.9 * weights[-2])
    first_below = next(t for t, w in enumerate(weights) if abs(w) < 0.3)
    assert first_below < forecast.steps_to_collapse
    assert max(map(abs, weights[forecast.steps_to_collapse :])) < 0.3
    assert abs(weights[forecast.steps_to_collapse - 1]) >= 0.3


def test_what_collapses_with_the_last_step_has_collapsed():
    optimizer = optimizer_of(torch.optim.SGD, dict(lr=1.0, weight_decay=0.5))
    assert forecast_of(optimizer, [1.0] * 2, 1.0, 0.3).steps_to_collapse == 2
    assert forecast_of(optimizer, [1.0], 1.0, 0.3).steps_to_collapse is None
    assert forecast_of(optimizer, [], 1.0, 0.3).steps_to_collapse is None
    nothing_left = forecast_of(optimizer, [2.0], 1.0, 0.3)
    assert nothing_left.log_decay == math.inf and nothing_left.steps_to_collapse == 1


def test_a_gamma_below_the_threshold_is_refused():
    optimizer = optimizer_of(*OPTIMIZERS['SGD'])
    with pytest.raises(ValueError, match='gamma must be >= threshold > 0, got 0.0005 and 0.001'):
        forecast_of(optimizer, [0.1], gamma=5e-4)
