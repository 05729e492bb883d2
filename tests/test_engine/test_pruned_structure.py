"""Checkpoints of pruned runs: plain data, loaded where they fit and refused elsewhere."""

import copy

import pytest
import torch
from runs import STREAM, demp, inner_widths, killing, resume_from, train
from snapshots import assert_same
from toy import kill_channels, toy_runner

DEAD = [1, 3, 5]
LOADS = dict(type='PrunedCheckpointHook')


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    """The folder of a run whose first block has lost channels."""
    folder = tmp_path_factory.mktemp('pruned')
    train(folder, [demp()], killing(DEAD))
    return folder


@pytest.fixture
def checkpoint(pruned):
    return torch.load(pruned / 'epoch_4.pth', weights_only=False)


def test_the_plan_in_a_checkpoint_is_plain_and_safe_to_load(tmp_path, checkpoint):
    meta = checkpoint['meta']['mmpsbn']
    torch.save(dict(meta=meta, state_dict=checkpoint['state_dict']), tmp_path / 'safe.pth')
    loaded = torch.load(tmp_path / 'safe.pth', weights_only=True)
    assert loaded['meta'] == meta
    kept = loaded['meta']['plan']['tensors']['blocks.0.conv1.weight']
    alive = [c for c in range(12) if c not in DEAD]
    assert kept == dict(shape=[12, 8, 3, 3], kept={'0': alive})


def test_a_run_that_does_not_prune_loads_it_and_keeps_its_plan(tmp_path, pruned, checkpoint):
    other = toy_runner(tmp_path, [LOADS], load_from=str(pruned / 'epoch_4.pth'), epochs=1)
    other.load_checkpoint(str(pruned / 'epoch_4.pth'))
    assert_same(dict(other.model.state_dict()), dict(checkpoint['state_dict']))
    other.train()
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['meta']['mmpsbn']
    assert saved['plan'] == checkpoint['meta']['mmpsbn']['plan']


@pytest.mark.parametrize('hook', [demp(), LOADS])
def test_a_pruned_head_finetunes_to_other_classes(tmp_path, hook):
    def kill(runner):
        for name in STREAM:
            kill_channels(runner.model.get_submodule(name), [2])

    first, _ = train(tmp_path / 'a', [demp()], kill)
    assert first.model.fc.weight.shape == (4, 7)
    other, _ = train(
        tmp_path / 'b',
        [hook],
        model=dict(type='ToyNet', classes=6),
        load_from=str(tmp_path / 'a/epoch_4.pth'),
        epochs=2,
    )
    assert other.model.fc.weight.shape == (6, 7) and other.model.stem.out_channels == 7


@pytest.mark.parametrize(
    'hook, model, message',
    [
        (
            demp(),
            dict(type='ToyNet', inner=16),
            r'the prune plan expects blocks.0.\S+ of shape .*12.* the model has .*16',
        ),
        (
            dict(type='SparsityHook'),
            None,
            r"is pruned to shape .*add dict\(type='PrunedCheckpointHook'",
        ),
    ],
)
def test_it_is_refused_by_another_model_and_a_run_that_knows_nothing_of_it(
    tmp_path, pruned, hook, model, message
):
    other = toy_runner(tmp_path, [hook], model=model)
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_checkpoint(str(pruned / 'epoch_4.pth'))
    assert_same(other.model.state_dict(), before)


SHAPES = 'blocks.0.conv1.weight has shape {} in the checkpoint and {} in the model'
WIDE, NARROW = r'\(12, 8, 3, 3\)', r'\(9, 8, 3, 3\)'


def test_a_resumed_run_refuses_it_without_its_plan(tmp_path, checkpoint):
    del checkpoint['meta']['mmpsbn']
    torch.save(checkpoint, tmp_path / 'no_plan.pth')
    runner = toy_runner(tmp_path, [demp()], **resume_from(tmp_path / 'no_plan.pth'))
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(ValueError, match=SHAPES.format(NARROW, WIDE)):
        runner.train()
    assert_same(runner.model.state_dict(), before)


def test_a_pruned_run_refuses_a_dense_checkpoint(tmp_path):
    runner, _ = train(tmp_path / 'a', [demp()], killing(DEAD))
    assert inner_widths(runner.model) == [9, 12]
    train(tmp_path / 'b', epochs=1)
    with pytest.raises(ValueError, match=SHAPES.format(WIDE, NARROW)):
        runner.load_checkpoint(str(tmp_path / 'b/epoch_1.pth'))
