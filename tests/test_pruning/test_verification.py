"""A wrong graph is caught, named and undone."""

import dataclasses

import pytest
import torch
from nets import assert_same, build, forward, loss_of, snapshot, trace
from test_golden import silence
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


def without_reader(group):
    return dataclasses.replace(group, readers=())


def without_norm(group):
    return dataclasses.replace(group, channelwise=())


def shifted_reader(group):
    reader = group.readers[0]
    return dataclasses.replace(
        group,
        readers=(
            dataclasses.replace(reader, index=reader.index[1:] + reader.index[:1]),
            *group.readers[1:],
        ),
    )


def shifted_writer(group):
    writer = group.writers[0]
    return dataclasses.replace(
        group,
        writers=(
            dataclasses.replace(writer, index=writer.index[1:] + writer.index[:1]),
            *group.writers[1:],
        ),
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


@pytest.mark.parametrize('damage', [without_reader, without_norm, shifted_reader, shifted_writer])
@pytest.mark.parametrize('name, group', [('chain', 'features.4'), ('residual', 'blocks.0.conv1')])
def test_a_wrong_group_is_named_and_nothing_is_left_of_it(damage, name, group):
    model, batch, optimizer, groups, masks = trained_with_silent_channels(name)
    before = snapshot(model, optimizer)
    right = groups[group]
    groups[group] = damage(right)
    with pytest.raises(
        VerificationError, match=rf"\['{group}'\].*tolerance 1.0e-09.*undone"
    ) as caught:
        prune(model, batch, optimizer, groups, masks)
    assert caught.value.groups == [group]
    assert_same(snapshot(model, optimizer), before)
    groups[group] = right  # the same removal with the right graph passes
    assert prune(model, batch, optimizer, groups, masks).channels_removed == {
        n: int((~m).sum()) for n, m in masks.items()
    }


def test_removing_a_channel_that_speaks_is_caught():
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    alive = int(masks['features.4'].nonzero()[0])
    masks['features.4'][alive] = False
    before = snapshot(model, optimizer)
    with pytest.raises(VerificationError) as caught:
        prune(model, batch, optimizer, groups, masks)
    assert caught.value.groups == ['features.4']
    assert_same(snapshot(model, optimizer), before)


@pytest.mark.parametrize('error', [AssertionError, ValueError, IndexError, RuntimeError])
def test_a_forward_pass_that_refuses_the_new_width_counts_as_wrong(error):
    model, batch, optimizer, groups, masks = trained_with_silent_channels()
    before = snapshot(model, optimizer)

    def strict_forward(model, batch):
        if model.features[4].out_channels != 6:
            raise error('six channels, please')
        return model(batch)

    with pytest.raises(VerificationError) as caught:
        prune(model, batch, optimizer, groups, masks, forward_fn=strict_forward)
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


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    'before, after, error',
    [
        ([[1.0, -4.0]], [[1.0, -4.0]], 0),
        ([[1.0, -4.0]], [[1.5, -4.0]], 0.125),
        ([[100.0], [1.0, 0.0]], [[101.0], [1.0, 0.5]], 0.5),
        ([[1.0], [1.0]], [[1.5], [1.25]], 0.5),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], INF),
        ([[1.0], [2.0]], [[1.0]], INF),
        ([[1.0]], [[1.0], [2.0]], INF),
        ([[1.0]], [[NAN]], INF),
        ([[NAN]], [[NAN]], INF),
        ([[INF]], [[1.0]], INF),
        ([[1.0]], [[INF]], INF),
        ([[], [2.0]], [[], [2.0]], 0),  # no detection on the probe
        ([[], [2.0]], [[], [3.0]], 0.5),
    ],
)
def test_output_errors_by_hand(before, after, error):
    before, after = (
        [torch.tensor(t, dtype=torch.float64) for t in side] for side in (before, after)
    )
    absolute, relative = output_errors(before, after)
    assert relative == pytest.approx(error)
    assert absolute == (
        error
        if error in (0, INF)
        else pytest.approx(
            max(float((y - x).abs().max()) for x, y in zip(before, after) if x.numel())
        )
    )


def test_output_errors_reads_labels_and_masks():
    assert output_errors([torch.tensor([4, 2])], [torch.tensor([4, 1])]) == (1, 0.25)
    assert output_errors([torch.tensor([True, False])], [torch.tensor([True, True])]) == (1, 1)
    assert output_errors([torch.tensor([0.0])], [torch.tensor([1e-3])])[1] > 1
