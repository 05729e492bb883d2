"""Surgery on the same Parameter objects, with the optimizer; and its way back."""

import pytest
import torch
from nets import (
    assert_same,
    build,
    flat,
    forward,
    loss_of,
    random_plan,
    snapshot,
    trace,
)
from torch import nn
from twin import kept_slice

from mmpsbn.pruning import PrunePlan, apply_plan, surgery
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.surgery import is_applied

OPTIMIZERS = {
    'sgd': lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    'sgd-plain': lambda p: torch.optim.SGD(p, lr=0.05),
    'adam': lambda p: torch.optim.Adam(p, lr=0.01),
    'adamw-amsgrad': lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    'adam-foreach': lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    'adagrad': lambda p: torch.optim.Adagrad(p, lr=0.01),
}
every_optimizer = pytest.mark.parametrize('kind', OPTIMIZERS)
every_net = pytest.mark.parametrize('name', ['chain', 'residual', 'psbn_residual', 'fpn'])


def trained(name, kind, steps=3):
    """(model, batch, optimizer) with filled state and a gradient on every parameter."""
    model, batch = build(name)
    optimizer = OPTIMIZERS[kind](model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model(batch)).backward()
        if step < steps - 1:
            optimizer.step()
    return model, batch, optimizer


def state_of(optimizer, parameter):
    return {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for k, v in optimizer.state.get(parameter, {}).items()
    }


@every_optimizer
@every_net
def test_parameters_stay_and_gradient_and_state_are_sliced_alike(name, kind):
    model, batch, optimizer = trained(name, kind)
    parameters = dict(model.named_parameters())
    values = {n: p.detach().clone() for n, p in parameters.items()}
    grads = {n: p.grad.clone() for n, p in parameters.items()}
    states = {n: state_of(optimizer, p) for n, p in parameters.items()}
    shapes = {n: p.shape for n, p in parameters.items()}
    plan = random_plan(model, batch)
    apply_plan(model, plan, (o for o in [optimizer]))  # any iterable will do
    assert any(p.shape != shapes[n] for n, p in parameters.items())
    for n, p in model.named_parameters():
        assert p is parameters[n] and p.is_leaf and p.requires_grad
        assert_same(p.detach(), kept_slice(values[n], plan, n))
        assert_same(p.grad, kept_slice(grads[n], plan, n))
        after = state_of(optimizer, p)
        assert after.keys() == states[n].keys()
        for key, value in states[n].items():
            same_shape = isinstance(value, torch.Tensor) and value.shape == shapes[n]
            assert same_shape or key == 'step' or value is None
            assert_same(after[key], kept_slice(value, plan, n) if same_shape else value)


@every_optimizer
def test_every_live_parameter_moves_in_the_next_step(kind):
    model, batch, optimizer = trained('residual', kind)
    apply_plan(model, random_plan(model, batch), [optimizer])
    held = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert held == {id(p) for p in model.parameters()}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer.zero_grad()
    loss_of(model(batch)).backward()
    optimizer.step()
    for n, p in model.named_parameters():
        assert p.shape == before[n].shape and not torch.equal(p, before[n]), n
        for key, value in optimizer.state[p].items():
            assert not isinstance(value, torch.Tensor) or key == 'step' or value.shape == p.shape


@every_optimizer
@every_net
def test_restore_puts_everything_back_bit_for_bit(name, kind):
    model, batch, optimizer = trained(name, kind)
    before, plan = snapshot(model, optimizer), random_plan(model, batch)
    grads = {n: p.grad for n, p in model.named_parameters()}
    restore = apply_plan(model, plan, [optimizer])
    assert is_applied(model, plan)
    loss_of(model.eval()(batch)).backward()  # life goes on before the way back
    restore()
    after = snapshot(model.train(), optimizer)
    assert not is_applied(model, plan)
    assert_same(after[1:], before[1:])
    for key, (value, grad) in before[0].items():
        assert_same(after[0][key][0], value)
        if key in plan.kept and grad is not None:
            assert dict(model.named_parameters())[key].grad is grads[key]
            assert_same(after[0][key][1], grad)


def test_restore_without_steps_in_between_is_exact_in_every_tensor():
    model, batch, optimizer = trained('residual', 'adam')
    before = snapshot(model, optimizer)
    apply_plan(model, random_plan(model, batch), [optimizer])()
    assert_same(snapshot(model, optimizer), before)


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


def test_a_parameter_the_optimizer_never_stepped_has_no_state_invented():
    model, batch = build('chain')
    optimizer = OPTIMIZERS['adam'](model.parameters())
    apply_plan(model, random_plan(model, batch), [optimizer])
    assert len(optimizer.state) == 0


def test_frozen_parameters_stay_frozen_and_without_gradient():
    model, batch = build('chain')
    model.features[0].weight.requires_grad_(False)
    apply_plan(model, random_plan(model, batch))
    assert not model.features[0].weight.requires_grad and model.features[0].weight.grad is None


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
    plan = plan_from_keep_masks(
        model,
        groups,
        {n: torch.arange(groups[n].channels) > 0 for n in ('features.0', 'features.4')},
    )
    change(model)
    before = snapshot(model)
    assert not is_applied(model, plan)
    with pytest.raises(ValueError, match=message):
        apply_plan(model, plan)
    assert_same(snapshot(model), before)


def test_a_plan_with_indices_out_of_range_changes_nothing():
    model, batch, optimizer = trained('chain', 'sgd')
    before = snapshot(model, optimizer)
    plan = random_plan(model, batch)
    last = list(plan.kept)[-1]
    broken = PrunePlan(plan.shapes, {**plan.kept, last: {0: (0, 99)}})
    with pytest.raises((IndexError, RuntimeError)):
        apply_plan(model, broken, [optimizer])
    assert_same(snapshot(model, optimizer), before)


def test_an_empty_plan_is_applied_and_changes_nothing():
    model, batch = build('chain')
    before, plan = snapshot(model), PrunePlan({}, {})
    assert not plan and is_applied(model, plan)
    apply_plan(model, plan)()
    assert_same(snapshot(model), before)


def test_a_bare_layer_can_be_cut():
    layer = nn.Conv2d(4, 3, 1)
    apply_plan(
        layer,
        PrunePlan(
            dict(weight=(3, 4, 1, 1), bias=(3,)),
            dict(weight={0: (0, 2), 1: (1,)}, bias={0: (0, 2)}),
        ),
    )
    assert layer(torch.zeros(1, 1, 2, 2)).shape == (1, 2, 2, 2) and (
        layer.in_channels,
        layer.out_channels,
    ) == (1, 2)


def test_outputs_after_restore_are_the_old_ones():
    model, batch = build('fpn')
    model.eval()
    before = [o.detach() for o in flat(forward(model, batch))]
    restore = apply_plan(model, random_plan(model, batch))
    assert any(not torch.allclose(a, b) for a, b in zip(flat(forward(model, batch)), before))
    restore()
    assert_same([o.detach() for o in flat(forward(model, batch))], before)
