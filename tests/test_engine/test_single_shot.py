"""A budget met by one cut: before the first step, or at EarlyCroP's time."""

import re

import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from runs import EMA, assert_resumes, average_of, inner_widths, pruner_of, train
from snapshots import assert_same
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from toy import ToyData, ToyNet, toy_runner

from mmpsbn.engine.demp.single_shot import (
    FirstLazyEpoch,
    passes_of_its_own,
    scores_of_passes,
    shares_of_rounds,
)
from mmpsbn.engine.openmmlab import batch_loss
from mmpsbn.engine.runner_parts import bare_model

FAST = dict(optimizer=dict(type='SGD', lr=3.0))
WIDE = dict(type='ToyNet', width=32, inner=48)


def at_once(**budget) -> dict:
    return dict(type='DemPHook', budget=dict(flops=0.4, score='snap', timing='start') | budget)


class Look(Hook):
    """What the model and the data are before the first step and at the first gradient."""

    priority = 'LOWEST'

    def __init__(self):
        self.labels, self.widths, self.weights = [], [], None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.labels.append(data_batch['labels'])
        self.widths.append(inner_widths(bare_model(runner)))
        if self.weights is None:
            self.weights = [p.detach().clone() for p in bare_model(runner).parameters()]


def events_of(messages):
    return [int(found[1]) for m in messages if (found := re.match(r'prune event at .* (\d+):', m))]


@pytest.mark.parametrize('score', ['snap', 'cropit'])
def test_the_cut_is_of_the_weights_before_the_first_step(tmp_path, score):
    plain, look = Look(), Look()
    train(tmp_path / 'plain', [plain], iters=8, model=WIDE)
    runner, messages = train(
        tmp_path / 'cut', [at_once(score=score), EMA, look], iters=8, model=WIDE
    )
    assert pruner_of(runner).budget.met and set(events_of(messages)) == {1}
    assert any('budget flops=0.4: one cut before the first step' in m for m in messages)
    assert look.widths[0] == inner_widths(bare_model(runner)) < [48, 48]
    assert inner_widths(average_of(runner)) == look.widths[0]
    values = {float(x) for weight in plain.weights for x in weight.flatten()}
    kept = {float(x) for weight in look.weights for x in weight.flatten()}
    assert kept < values
    assert_same(look.labels, plain.labels)  # the passes took no batch from the training


def test_more_than_half_goes_in_rounds_with_new_scores(tmp_path, monkeypatch):
    assert shares_of_rounds(0.4) == shares_of_rounds(0.5) == [1.0]
    shares = shares_of_rounds(0.9)
    gone = [0.9 * share for share in shares]
    assert gone == pytest.approx([0.5, 0.7, 0.8, 0.85, 0.875, 0.8875, 0.9])
    seen = []

    def spied(runner, model, *args):
        seen.append(inner_widths(model))
        return scores_of_passes(runner, model, *args)

    monkeypatch.setattr('mmpsbn.engine.demp.budget_pruner.scores_of_passes', spied)
    _, messages = train(tmp_path, [at_once(flops=0.2)], iters=3, model=WIDE)
    assert len(events_of(messages)) == len(seen) == 7
    assert seen == sorted(seen, reverse=True) and seen[0] == [48, 48] > seen[1]


def test_a_group_of_which_the_loss_says_nothing_stays_whole_and_is_named(tmp_path):
    def silence(runner):
        nn.init.zeros_(bare_model(runner).blocks[0].bn2.weight)

    runner, messages = train(tmp_path, [at_once(flops=0.7)], silence, iters=3, model=WIDE)
    first, second = inner_widths(bare_model(runner))
    assert first == 48 > second
    assert any(
        re.match(r'the loss says nothing of 1 of 3 groups, .*blocks.0.*zero_init_residual', m)
        for m in messages
    )


def test_passes_leave_nothing_behind(tmp_path):
    runner = toy_runner(tmp_path, [])
    model = runner.model.train()
    model.add_module('drop', nn.Dropout())
    batch = next(iter(runner.train_dataloader))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    with passes_of_its_own(model):
        batch_loss(model, batch)
        torch.rand(1)
        assert not model.drop.training and model.norm.training
        assert not torch.equal(model.norm.running_mean, before['norm.running_mean'])
    assert model.drop.training and torch.equal(torch.get_rng_state(), state)
    assert_same(dict(model.named_buffers()), before)


def weights_of(checkpoint):
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    names = dict(ToyNet(width=32, inner=48).named_parameters())
    return torch.cat([state[name].double().flatten() for name in names])


@pytest.mark.parametrize('score', ['snap', 'fisher'])
def test_the_early_cut_is_after_the_first_epoch_that_hardly_moves_the_weights(tmp_path, score):
    left, look = 0.04, Look()
    train(tmp_path / 'plain', [look], epochs=4, model=WIDE)
    first = torch.cat([weight.double().flatten() for weight in look.weights])
    ends = [weights_of(tmp_path / f'plain/epoch_{k}.pth') for k in range(1, 5)]
    distances = [0.0, *(float((end - first).norm()) for end in ends)]
    moves = [abs(b - a) / float(first.norm()) for a, b in zip(distances, distances[1:])]
    epoch = next(k for k, move in enumerate(moves, 1) if move < left)
    assert epoch == 2
    hook = dict(type='DemPHook', budget=dict(params=left, score=score, timing='early'))
    runner, messages = train(tmp_path / 'early', [hook], epochs=4, model=WIDE)
    assert set(events_of(messages)) == {4 * epoch} and pruner_of(runner).budget.met


def test_an_epoch_that_moves_nothing_does_not_count_and_the_last_one_always_does():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 4.0]])
    early = FirstLazyEpoch(model, left=0.3, epoch=10, iters=50)
    assert not early.has_come(model, 10)
    model.weight.data += torch.tensor([[0.0, 2.0]])
    assert not early.has_come(model, 20)  # 2 / 5
    model.weight.data += torch.tensor([[0.0, 1.0]])
    after = FirstLazyEpoch(model, left=0.3, epoch=10, iters=50)
    after.restore(early.state())
    assert early.has_come(model, 30) and after.has_come(model, 30)  # 1 / 5
    assert early.next_event(29) is early.next_event(30) is None
    never = FirstLazyEpoch(model, left=0.3, epoch=10, iters=50)
    assert [never.next_event(step) for step in (0, 9, 10, 39, 40)] == [10, 10, 20, 40, None]
    assert not never.has_come(model, 30) and never.has_come(model, 40)
    with pytest.raises(ValueError, match="'early' .* none of 10 .* train for 12 iterations"):
        FirstLazyEpoch(model, left=0.3, epoch=10, iters=11)
    FirstLazyEpoch(model, left=0.3, epoch=10, iters=12)


def test_the_first_weights_are_known_after_a_resume(tmp_path):
    hook = at_once(flops=0.7, score='cropit', timing='early')
    whole = assert_resumes(
        tmp_path, [hook], at='epoch_1.pth', epochs=4, model=WIDE, optim_wrapper=FAST
    )
    assert pruner_of(whole).budget.met
    start, end = (torch.load(tmp_path / f'whole/epoch_{k}.pth', weights_only=False) for k in (1, 4))
    first = [s['meta']['mmpsbn']['pruner']['pace']['first'] for s in (start, end)]
    assert len(first[0]) == 17 and first[1] == []


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            yield from (ToyData()[i] for i in range(32))


@pytest.mark.parametrize('timing, score', [('start', 'snap'), ('early', 'fisher')])
def test_data_without_a_length_are_refused(tmp_path, timing, score):
    def stream(runner):
        runner._train_dataloader = DataLoader(Stream(), batch_size=8)
        runner._hooks = [hook for hook in runner._hooks if not isinstance(hook, LoggerHook)]

    hook = at_once(score=score, timing=timing)
    log = dict(log_processor=dict(by_epoch=False))
    with pytest.raises(TypeError, match='of a known length, and Stream has none'):
        train(tmp_path, [hook], stream, iters=8, **log)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(timing='late'), r"timing must be one of \('gradual', .* got 'late'"),
        (dict(score='l1'), r"timing 'start' needs a score of \('snap', 'cropit'\), got 'l1'"),
        (dict(cuts=3, end=0.5, begin=0.1), r"one cut, and \['begin', 'end', 'cuts'\] would do"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(at_once(**settings))
