"""Surgery on the same Parameter objects, with the optimizer; its way back; how training goes on.

More ways of training (param groups, accumulation, AMP, clipping, compiled models) are in
test_engine/test_training_matrix.
"""

import pytest
import torch
from draws import generator
from nets import assert_same, build, loss_of, random_plan, snapshot, trace
from torch import nn
from twin import assert_equals_twin, assert_state_equals_twin, mask_

from mmpsbn.pruning import PrunePlan, apply_plan, surgery
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.surgery import is_applied

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


def trained(name, kind):
    """(model, batch, optimizer) with filled state and a gradient on every parameter."""
    model, batch = build(name)
    optimizer = OPTIMIZERS[kind](model.parameters())
    loss_of(model(batch)).backward()
    optimizer.step()
    loss_of(model(batch)).backward()
    return model, batch, optimizer


@pytest.mark.parametrize('kind', ['sgd-nesterov', 'adam', 'adamw-amsgrad', 'adagrad'])
@pytest.mark.parametrize('name', ['psbn_chain', 'residual', 'fpn'])
def test_restore_puts_everything_back_bit_for_bit(name, kind):
    model, batch, optimizer = trained(name, kind)
    before, plan = snapshot(model, optimizer), random_plan(model, batch)
    grads = {n: p.grad for n, p in model.named_parameters()}
    restore = apply_plan(model, plan, [optimizer])
    assert is_applied(model, plan)
    loss_of(model.eval()(batch)).backward()  # life goes on before the way back
    restore()
    assert not is_applied(model, plan)
    after = snapshot(model.train(), optimizer)
    assert_same(after[1:], before[1:])
    for key, (value, grad) in before[0].items():
        assert_same(after[0][key][0], value)
        if key in plan.kept and grad is not None:
            assert dict(model.named_parameters())[key].grad is grads[key]
            assert_same(after[0][key][1], grad)


@pytest.mark.parametrize('fail_at', [1, 2, 5, 12])
def test_a_failure_in_the_middle_leaves_nothing_half_pruned(monkeypatch, fail_at):
    model, batch, optimizer = trained('residual', 'adam')
    plan, before, calls = random_plan(model, batch), snapshot(model, optimizer), []

    def out_of_memory(*args, real=surgery._slice):
        calls.append(1)
        if len(calls) == fail_at:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(surgery, '_slice', out_of_memory)
    with pytest.raises(MemoryError):
        apply_plan(model, plan, [optimizer])
    assert_same(snapshot(model, optimizer), before)


def test_no_state_is_invented_and_what_is_frozen_stays_frozen():
    model, batch = build('chain')
    frozen = model.features[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS['adam'](model.parameters())
    apply_plan(model, random_plan(model, batch), [optimizer])
    assert len(optimizer.state) == 0
    assert not frozen.requires_grad and frozen.grad is None


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda m: m.features.__setitem__(0, nn.Conv2d(3, 7, 3)),
            r'expects features.0.weight of shape \(6, 3, 3, 3\), the model has \(7, 3, 3, 3\)',
        ),
        (
            lambda m: m.features.__delitem__(slice(4, None)),
            'names features.4.weight, which the model lacks',
        ),
        (
            lambda m: apply_plan(m, random_plan(m, torch.zeros(1, 3, 8, 8).double())),
            r'expects \S+ of shape',
        ),
    ],
)
def test_a_plan_for_another_model_is_refused_and_nothing_changes(change, message):
    model, batch = build('chain')
    groups = trace(model, batch).groups
    masks = {n: torch.arange(groups[n].channels) > 0 for n in ('features.0', 'features.4')}
    plan = plan_from_keep_masks(model, groups, masks)
    change(model)
    before = snapshot(model)
    assert not is_applied(model, plan)
    with pytest.raises(ValueError, match=message):
        apply_plan(model, plan)
    assert_same(snapshot(model), before)


def test_a_plan_with_indices_out_of_range_changes_nothing():
    model, batch, optimizer = trained('psbn_chain', 'sgd')
    before = snapshot(model, optimizer)
    plan = random_plan(model, batch)
    broken = PrunePlan(plan.shapes, {**plan.kept, list(plan.kept)[-1]: {0: (0, 99)}})
    with pytest.raises((IndexError, RuntimeError)):
        apply_plan(model, broken, [optimizer])
    assert_same(snapshot(model, optimizer), before)


def test_an_empty_plan_is_applied_and_changes_nothing():
    model, _ = build('chain')
    before, plan = snapshot(model), PrunePlan({}, {})
    assert not plan and is_applied(model, plan)
    apply_plan(model, plan)()
    assert_same(snapshot(model), before)


def test_a_bare_layer_can_be_cut():
    layer = nn.Conv2d(4, 3, 1)
    shapes = dict(weight=(3, 4, 1, 1), bias=(3,))
    apply_plan(layer, PrunePlan(shapes, dict(weight={0: (0, 2), 1: (1,)}, bias={0: (0, 2)})))
    assert layer(torch.zeros(1, 1, 2, 2)).shape == (1, 2, 2, 2)
    assert (layer.in_channels, layer.out_channels) == (1, 2)


# --- training goes on ------------------------------------------------------------------------


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
def test_training_goes_on_as_if_the_channels_had_been_masked(kind, net):
    """Three steps, surgery or masking of live channels, and four more."""
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
