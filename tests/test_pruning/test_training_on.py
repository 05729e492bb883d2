"""Training goes on after surgery as if the channels had been masked, with any optimizer.

The channels that go are live ones: their state and gradients are not zero. Several param groups and
optimizers, gradient accumulation, AMP, clipping and compiled models are in
test_engine/test_training_matrix.
"""

import pytest
import torch
from nets import build, generator, loss_of, random_plan
from twin import assert_equals_twin, assert_state_equals_twin, mask_

from mmpsbn.pruning import apply_plan

CLOSE = dict(rtol=1e-9, atol=1e-12)
TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
optim = torch.optim
OPTIMIZERS = {
    'sgd': lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    'sgd-nesterov': lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    'adam': lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    'adam-foreach': lambda p: optim.Adam(p, lr=0.01, foreach=True),
    'adamw': lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    'adamw-amsgrad': lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    'rmsprop': lambda p: optim.RMSprop(p, lr=0.01),
    # its variance is a difference of squares: eps above the rounding
    'rmsprop-centered': lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9, eps=1e-5),
    'adagrad': lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    'adadelta': lambda p: optim.Adadelta(p, lr=1.0),
    'nadam': lambda p: optim.NAdam(p, lr=0.01),
}
if TORCH >= (2, 4):  # before, on CUDA alone
    OPTIMIZERS['adam-fused'] = lambda p: optim.Adam(p, lr=0.01, fused=True)


def batches(count, seed=3):
    return torch.randn(count, 3, 3, 8, 8, dtype=torch.float64, generator=generator(seed))


def mild_loss_of(outputs):
    return loss_of(outputs) / 1000  # else rounding grows a thousandfold within a few steps


def train(model, optimizer, data):
    for batch in data:
        optimizer.zero_grad()
        mild_loss_of(model(batch)).backward()
        optimizer.step()


@pytest.mark.parametrize('net', ['psbn_residual', 'concat', 'fpn'])
@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_every_optimizer(kind, net):
    """Three steps, surgery or masking, and four more."""
    runs, data = [], batches(7)
    for _ in ('pruned', 'twin'):
        model, batch = build(net)
        if net == 'fpn':  # a norm follows: its gradient is rounding, which Adam would blow up
            model.tower.bias.requires_grad_(False)
        runs.append((model, OPTIMIZERS[kind](model.parameters())))
        train(*runs[-1], data[:3])
    (pruned, optimizer), (twin, its_optimizer) = runs
    plan = random_plan(pruned, batch)
    assert len(plan.kept) > 3
    apply_plan(pruned, plan, iter([optimizer]))  # any iterable will do
    mask_(twin, plan, [its_optimizer])
    for run in runs:
        train(*run, data[3:])
    assert_equals_twin(pruned, twin, plan, **CLOSE)
    assert_state_equals_twin(optimizer, its_optimizer, pruned, twin, plan, **CLOSE)
