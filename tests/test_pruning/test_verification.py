"""A wrong graph is caught, named and undone."""

import dataclasses

import pytest
import torch
from nets import assert_same, build, forward, loss_of, silence, snapshot, trace
from torch import nn

from mmpsbn.pruning import VerificationError
from mmpsbn.pruning.forward import evaluating
from mmpsbn.pruning.prune import prune_channels
from mmpsbn.pruning.verification import output_errors, probe_outputs


def trained_with_silent_channels(name='chain'):
    """(model, batch, optimizer, groups, masks): what the masks remove is dead."""
    model, batch = build(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_of(model(batch)).backward()
    optimizer.step()
    groups = dict(trace(model, batch).groups)
    return model, batch, optimizer, groups, silence(model, groups)


def shifted(members):
    first, *others = members
    index = first.index[1:] + first.index[:1]
    return (dataclasses.replace(first, index=index), *others)


DAMAGES = dict(
    without_reader=lambda group: dict(readers=()),
    without_norm=lambda group: dict(channelwise=()),
    shifted_reader=lambda group: dict(readers=shifted(group.readers)),
    shifted_writer=lambda group: dict(writers=shifted(group.writers)),
)


def prune(model, batch, optimizer, groups, masks, **kwargs):
    return prune_channels(
        model,
        groups,
        masks,
        batch=batch,
        optimizers=iter([optimizer]),
        **{**dict(forward_fn=forward, tolerance=1e-9), **kwargs},
    )


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('name, group', [('chain', 'features.4'), ('residual', 'blocks.0.conv1')])
def test_a_wrong_group_is_named_and_nothing_is_left_of_it(damage, name, group):
    model, batch, optimizer, groups, masks = trained_with_silent_channels(name)
    before, right = snapshot(model, optimizer), groups[group]
    groups[group] = dataclasses.replace(right, **DAMAGES[damage](right))
    message = rf"\['{group}'\].*tolerance 1.0e-09.*undone"
    with pytest.raises(VerificationError, match=message) as caught:
        prune(model, batch, optimizer, groups, masks)
    assert caught.value.groups == [group]
    assert_same(snapshot(model, optimizer), before)
    groups[group] = right  # the same removal with the right graph passes
    removed = prune(model, batch, optimizer, groups, masks).channels_removed
    assert removed == {n: int((~m).sum()) for n, m in masks.items()}


def test_a_channel_that_speaks_and_a_pass_that_refuses_the_new_width_count_as_wrong():
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    before = snapshot(model, optimizer)

    def strict_forward(model, batch):
        assert model.features[4].out_channels == 6, 'six channels, please'
        return model(batch)

    alive = masks['features.4'].clone()
    alive[int(alive.nonzero()[0])] = False
    for wrong, forward_fn in ((masks | {'features.4': alive}, forward), (masks, strict_forward)):
        with pytest.raises(VerificationError) as caught:
            prune(model, batch, optimizer, groups, wrong, forward_fn=forward_fn)
        assert caught.value.groups == ['features.4']
        assert_same(snapshot(model, optimizer), before)


def test_an_interrupt_during_the_probe_undoes_the_surgery():
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    before = snapshot(model, optimizer)

    def interrupted(model, batch):
        if model.features[4].out_channels != 6:
            raise KeyboardInterrupt
        return model(batch)

    with pytest.raises(KeyboardInterrupt):
        prune(model, batch, optimizer, groups, masks, forward_fn=interrupted)
    assert_same(snapshot(model, optimizer), before)


def test_all_ranks_act_on_the_agreed_error():
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    before, measured = snapshot(model, optimizer), []

    def another_rank_fails(error):
        measured.append(error)
        return 1.0 if len(measured) == 1 else 0.0

    with pytest.raises(VerificationError) as caught:
        prune(model, batch, optimizer, groups, masks, agree=another_rank_fails)
    assert caught.value.groups == []  # wrong only together: none of them alone
    assert len(measured) == 1 + 2 and max(measured) < 1e-9  # the halves are tried
    assert_same(snapshot(model, optimizer), before)


def test_training_mode_of_each_module_survives_pruning():
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    model.features[1].eval()
    modes = [m.training for m in model.modules()]
    statistics = model.features[5].running_mean.clone()
    prune(model, batch, optimizer, groups, masks)
    assert [m.training for m in model.modules()] == modes and not all(modes)
    assert torch.equal(model.features[5].running_mean, statistics[masks['features.4']])


def test_evaluating_sets_flags_without_calling_eval_and_survives_an_error():

    class Backbone(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError('side effects')

    model = nn.Sequential(Backbone(nn.Dropout()), nn.BatchNorm2d(2).eval())
    modes = [m.training for m in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise KeyError
    assert [m.training for m in model.modules()] == modes


def test_probe_outputs_flattens_any_nesting_and_needs_a_tensor():
    tensors = [torch.tensor([float(i)]) for i in range(4)]
    nested = ([tensors[0], None], dict(a=(tensors[1], 'text'), b=[tensors[2]]), tensors[3])
    assert probe_outputs(nn.ReLU(), nested, lambda m, x: x) == tensors
    with pytest.raises(ValueError, match='ReLU: the forward function returned no tensor'):
        probe_outputs(nn.ReLU(), None, lambda m, x: dict(a='text'))


def test_probe_outputs_are_in_full_precision_whatever_training_asks_for():
    seen = []

    def forward_fn(model, batch):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return model(batch)

    torch.set_float32_matmul_precision('medium')
    try:
        probe_outputs(nn.ReLU(), torch.ones(1), forward_fn)
        assert seen == [('highest', False)]
        assert torch.get_float32_matmul_precision() == 'medium'
    finally:
        torch.set_float32_matmul_precision('highest')


NAN, INF = float('nan'), float('inf')
NOT_THE_SAME = INF, INF


@pytest.mark.parametrize(
    'before, after, error',
    [
        ([[1.0, -4.0]], [[1.0, -4.0]], (0, 0)),
        ([[1.0, -4.0]], [[1.5, -4.0]], (0.5, 0.125)),
        ([[100.0], [1.0, 0.0]], [[101.0], [1.0, 0.5]], (1, 0.5)),  # each over its own maximum
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], NOT_THE_SAME),
        ([[1.0], [2.0]], [[1.0]], NOT_THE_SAME),
        ([[1.0]], [[NAN]], NOT_THE_SAME),
        ([[NAN]], [[NAN]], NOT_THE_SAME),
        ([[INF]], [[1.0]], NOT_THE_SAME),
        ([[1.0]], [[INF]], NOT_THE_SAME),
        ([[], [2.0]], [[], [3.0]], (1, 0.5)),  # no detection on the probe
    ],
)
def test_output_errors_by_hand(before, after, error):
    sides = ([torch.tensor(t, dtype=torch.float64) for t in side] for side in (before, after))
    assert output_errors(*sides) == pytest.approx(error)


def test_output_errors_reads_labels_masks_and_complex_numbers():
    assert output_errors([torch.tensor([4, 2])], [torch.tensor([4, 1])]) == (1, 0.25)
    assert output_errors([torch.tensor([True, False])], [torch.tensor([True, True])]) == (1, 1)
    assert output_errors([torch.tensor([0.0])], [torch.tensor([1e-3])])[1] > 1
    real = torch.ones(3, dtype=torch.float64)
    assert output_errors([torch.complex(real, real)], [torch.complex(real, -real)])[1] == 2
