"""Checkpoints of pruned runs: plain data, loaded where they fit and refused elsewhere."""

import copy
from types import SimpleNamespace

import pytest
import torch
from runs import EMA, STREAM, average_of, demp, inner_widths, killing, resume_from, train
from snapshots import assert_same
from spoilt import exploding
from toy import kill_channels, toy_runner

from mmpsbn.engine.checkpoints.pruned_structure import PrunedStructure
from mmpsbn.engine.checkpoints.pruned_weights import note_plan

DEAD = [1, 3, 5]
LOADS = dict(type='PrunedCheckpointHook')
PRUNES = [demp(num_samples=24), EMA]


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    """The folder of a run whose first block has lost channels; it ends in the window of the next
    event."""
    folder = tmp_path_factory.mktemp('pruned')
    train(folder, PRUNES, killing(DEAD))
    return folder


@pytest.fixture
def checkpoint(pruned):
    return torch.load(pruned / 'epoch_4.pth', weights_only=False)


def test_the_plan_in_a_checkpoint_is_plain_and_safe_to_load(tmp_path, checkpoint):
    meta = checkpoint['meta']['mmpsbn']
    torch.save(dict(meta=meta, state_dict=checkpoint['state_dict']), tmp_path / 'safe.pth')
    loaded = torch.load(tmp_path / 'safe.pth', weights_only=True)
    assert loaded['meta'] == meta and all(meta['pruner']['windows'])
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


def test_weights_alone_are_not_resumed(tmp_path, pruned):
    checkpoint = torch.load(pruned / 'epoch_4.pth', weights_only=False)
    weights = dict(state_dict=checkpoint['state_dict'])
    plan = dict(mmpsbn=dict(plan=checkpoint['meta']['mmpsbn']['plan']))
    for name, saved in dict(pruned=dict(weights, meta=plan), bare=weights).items():
        torch.save(saved, tmp_path / f'{name}.pth')
        with pytest.raises(ValueError, match='cannot be resumed: it has weights, .* --load-from'):
            train(tmp_path, [demp()], **resume_from(tmp_path / f'{name}.pth'))


def test_another_model_refuses_it(tmp_path, pruned):
    other = toy_runner(tmp_path, [demp()], model=dict(type='ToyNet', inner=16))
    before = copy.deepcopy(other.model.state_dict())
    said = r'the prune plan expects blocks.0.\S+ of shape .*12.* the model has .*16'
    with pytest.raises(ValueError, match=said):
        other.load_checkpoint(str(pruned / 'epoch_4.pth'))
    assert_same(other.model.state_dict(), before)


SHAPES = 'blocks.0.conv1.weight has shape {} in the checkpoint and {} in the model'
WIDE, NARROW = r'\(12, 8, 3, 3\)', r'\(9, 8, 3, 3\)'


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda meta: meta.pop('mmpsbn'), SHAPES.format(NARROW, WIDE)),
        (lambda meta: meta['mmpsbn'].pop('plan'), 'prune plan version must be 1, got None'),
        (
            lambda meta: meta['mmpsbn']['plan']['tensors'].pop('blocks.0.conv2.weight'),
            'blocks.0.conv2.weight has shape .* in the checkpoint and',
        ),
        (lambda meta: meta['mmpsbn'].pop('noise_seed'), "state has no 'noise_seed', so it is of"),
        (lambda meta: meta['mmpsbn']['pruner'].pop('samples'), "pruning state has no 'samples'"),
    ],
)
def test_a_resumed_run_names_what_is_wrong_and_nothing_has_changed(
    tmp_path, checkpoint, change, message
):
    change(checkpoint['meta'])
    torch.save(checkpoint, tmp_path / 'changed.pth')
    runner = toy_runner(tmp_path, PRUNES, **resume_from(tmp_path / 'changed.pth'))
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(ValueError, match=message):
        runner.train()
    for model in (runner.model, average_of(runner)):
        assert_same(model.state_dict(), before)


@pytest.mark.parametrize('meta', [[], 3, 'plan', {'plan': None}, exploding()])
def test_what_is_no_plan_is_refused_by_every_loader(checkpoint, meta):
    checkpoint['meta'] = dict(mmpsbn=meta)
    said = 'must be a dict, got|version must be 1, got None'
    with pytest.raises(ValueError, match=said):
        note_plan(checkpoint)
    with pytest.raises(ValueError, match=said):
        PrunedStructure().load(SimpleNamespace(hooks=[]), checkpoint)


def test_a_pruned_run_refuses_a_dense_checkpoint(tmp_path):
    runner, _ = train(tmp_path / 'a', [demp()], killing(DEAD))
    assert inner_widths(runner.model) == [9, 12]
    train(tmp_path / 'b', epochs=1)
    with pytest.raises(ValueError, match=SHAPES.format(WIDE, NARROW)):
        runner.load_checkpoint(str(tmp_path / 'b/epoch_1.pth'))
