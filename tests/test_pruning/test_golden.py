"""A pruned model is the masked model: outputs and surviving gradients, float64."""

import copy

import pytest
import torch
from nets import (
    NETS,
    assert_same,
    build,
    flat,
    forward,
    loss_of,
    masked_copy,
    random_masks,
    snapshot,
    trace,
)
from torch import nn
from twin import kept_slice

from mmpsbn.pruning import apply_plan
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.prune import prune_channels

close = dict(rtol=1e-11, atol=1e-11)
every_net = pytest.mark.parametrize('name', NETS)


def pruned_and_masked(name, seed, training):
    model, batch = build(name, seed)
    groups = trace(model, batch).groups
    masks = random_masks(groups, seed)
    masked = masked_copy(model, groups, masks)
    plan = plan_from_keep_masks(model, groups, masks)
    apply_plan(model, plan)
    removed = sum(int((~mask).sum()) for mask in masks.values())
    return model.train(training), masked.train(training), plan, batch, removed


@every_net
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('seed', [0, 1])
def test_pruned_equals_masked_in_outputs_and_gradients(name, training, seed):
    pruned, masked, plan, batch, removed = pruned_and_masked(name, seed, training)
    assert removed > 2 and plan
    outputs = [model(batch) for model in (pruned, masked)]
    for ours, theirs in zip(*map(flat, outputs)):
        torch.testing.assert_close(ours, theirs, **close)
    for output in outputs:
        loss_of(output).backward()
    dense = dict(masked.named_parameters())
    for key, parameter in pruned.named_parameters():
        torch.testing.assert_close(
            parameter.grad, kept_slice(dense[key].grad, plan, key), msg=key, **close
        )
    for key, buffer in pruned.named_buffers():
        torch.testing.assert_close(
            buffer, kept_slice(masked.get_buffer(key), plan, key), msg=key, **close
        )


def sizes_said(module):
    """What a layer says of its widths, and what its tensors say."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        inner = module.in_channels // module.groups
        outer = (module.out_channels, inner)
        transposed = isinstance(module, nn.ConvTranspose2d)
        return outer[::-1] if transposed else outer, module.weight.shape[:2]
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features), module.weight.shape
    if isinstance(module, nn.GroupNorm):
        return (module.num_channels, 2 * module.num_groups), (len(module.weight),) * 2
    if isinstance(module, nn.PReLU):
        return (module.num_parameters,), module.weight.shape
    if isinstance(module, nn.BatchNorm2d):
        tensors = (module.weight, module.running_mean, module.running_var)
        return (module.num_features,) * 3, tuple(map(len, tensors))
    return (), ()


@every_net
def test_the_layers_say_what_they_are_after_surgery(name):
    pruned, _, plan, _, _ = pruned_and_masked(name, 0, True)
    for module in pruned.modules():
        said, are = sizes_said(module)
        assert said == tuple(are), module
    for key in plan.kept:
        assert tuple(pruned.state_dict()[key].shape) == plan.shape_after(key)


@every_net
def test_a_pruned_model_survives_deepcopy_save_and_a_second_prune(name, tmp_path):
    pruned, _, _, batch, _ = pruned_and_masked(name, 0, False)
    twin = copy.deepcopy(pruned)
    torch.save(pruned.state_dict(), tmp_path / 'c.pth')
    twin.load_state_dict(torch.load(tmp_path / 'c.pth', weights_only=True))
    assert_same([o.detach() for o in flat(twin(batch))], [o.detach() for o in flat(pruned(batch))])
    groups = trace(pruned, batch).groups
    masks = random_masks(groups, 5)
    masked = masked_copy(pruned, groups, masks)
    apply_plan(pruned, plan_from_keep_masks(pruned, groups, masks))
    for ours, theirs in zip(flat(pruned(batch)), flat(masked(batch))):
        torch.testing.assert_close(ours, theirs, **close)


def test_channels_last_weights_stay_channels_last():
    model, batch = build('chain')
    model = model.to(memory_format=torch.channels_last)
    groups = trace(model, batch).groups
    apply_plan(model, plan_from_keep_masks(model, groups, random_masks(groups)))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_loss_kept_from_before_does_not_break_the_next_backward():
    model, batch = build('residual')
    groups = trace(model, batch).groups
    loss = loss_of(model(batch))
    loss.backward()
    restore = apply_plan(model, plan_from_keep_masks(model, groups, random_masks(groups)))
    after = loss_of(model(batch))
    after.backward()
    restore()
    loss_of(model(batch)).backward()
    assert loss.requires_grad and after.requires_grad  # both graphs are alive until here


@pytest.mark.parametrize(
    'norm', [dict(affine=False), dict(track_running_stats=False), dict(affine=False, eps=0.1)]
)
def test_norms_without_some_of_their_tensors(norm):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, **norm), nn.ReLU(), nn.Conv2d(5, 2, 3)
    ).double()
    batch = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    groups = trace(model, batch).groups
    masks = {'0': torch.tensor([1, 0, 1, 0, 1]).bool()}
    masked = masked_copy(model, groups, masks)
    restore = apply_plan(model, plan_from_keep_masks(model, groups, masks))
    assert model[1].num_features == 3
    torch.testing.assert_close(model(batch), masked(batch), **close)
    restore()
    assert model[1].num_features == 5


def test_groups_that_are_left_out_or_kept_whole_give_no_plan():
    model, batch = build('chain')
    groups = trace(model, batch).groups
    before = snapshot(model)
    whole = {n: torch.ones(g.channels, dtype=torch.bool) for n, g in groups.items()}
    for masks in ({}, whole):
        result = prune_channels(
            model, groups, masks, batch=batch, forward_fn=forward, tolerance=0.0
        )
        assert not result.plan and result.channels_removed == {} and result.relative_error == 0
    assert_same(snapshot(model), before)
    whole['features.4'][1] = False
    plan = plan_from_keep_masks(model, groups, whole)
    assert set(plan.kept) == {
        f'features.{k}'
        for k in ('4.weight', '5.weight', '5.bias', '5.running_mean', '5.running_var', '7.weight')
    }
    assert plan.kept['features.7.weight'] == {1: (0, 2, 3, 4, 5)}


@pytest.mark.parametrize('mask', [[True] * 5, [True] * 7, [False] * 6])
def test_a_mask_that_does_not_fit_is_refused_and_nothing_changes(mask):
    model, batch = build('chain')
    groups = trace(model, batch).groups
    before = snapshot(model)
    masks = {'features.4': torch.arange(6) > 0, 'features.0': torch.tensor(mask)}
    message = f'features.0: a keep mask needs 6 values .*, got {len(mask)} with {sum(mask)} True'
    with pytest.raises(ValueError, match=message):
        prune_channels(model, groups, masks, batch=batch, forward_fn=forward, tolerance=1e9)
    assert_same(snapshot(model), before)
