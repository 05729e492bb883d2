"""A budget met by one cut: before the first step, or at EarlyCroP's time."""

import itertools
import re

import pytest
import torch
from budget_runs import WIDE
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from runs import EMA, assert_resumes, average_of, inner_widths, pruner_of, resume_from, train
from snapshots import assert_same
from test_iterable_data import STREAM, stream
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from toy import ToyData, ToyNet, toy_runner

from mmpsbn.engine.demp.budget import Budget
from mmpsbn.engine.demp.budget_schedule import shares_of_rounds
from mmpsbn.engine.demp.score_passes import passes_of_its_own, scores_of_passes
from mmpsbn.engine.openmmlab import batch_loss
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.pruning import VerificationError

FAST = dict(optimizer=dict(type='SGD', lr=3.0))


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

    monkeypatch.setattr('mmpsbn.engine.demp.scorer.scores_of_passes', spied)
    _, messages = train(tmp_path, [at_once(flops=0.2)], iters=3, model=WIDE)
    assert len(events_of(messages)) == len(seen) == 7
    assert seen == sorted(seen, reverse=True) and seen[0] == [48, 48] > seen[1]


def test_rounds_go_on_to_the_last_one_where_an_earlier_one_comes_near_the_budget(
    tmp_path, monkeypatch
):
    aims, choose = [], Budget.choose

    def spied(budget, model, groups, scores, share):
        aims.append(share)
        return choose(budget, model, groups, scores, share)

    monkeypatch.setattr(Budget, 'choose', spied)
    runner, _ = train(tmp_path, [at_once(flops=0.4)], iters=1, model=WIDE)
    assert aims == shares_of_rounds(0.6) and pruner_of(runner).budget.met


@pytest.fixture
def batches(monkeypatch):
    """The labels of those whose loss is taken for a score or for its trial."""
    seen = []

    def spied(model, batch):
        seen.append(batch['labels'].tolist())
        return batch_loss(model, batch)

    monkeypatch.setattr('mmpsbn.engine.demp.score_passes.batch_loss', spied)
    return seen


def test_each_round_and_each_seed_has_batches_of_its_own(tmp_path, batches):
    def seeded(runner):
        runner.set_randomness(seed=1)

    runs = []
    for name, prepare in (('a', []), ('b', []), ('c', [seeded])):
        batches.clear()
        train(tmp_path / name, [at_once(flops=0.2)], *prepare, iters=1, model=WIDE)
        taken = batches[2:]  # without the trial and the pass that shows what runs
        assert len(taken) == 7 * 10
        runs.append([str(taken[k : k + 10]) for k in range(0, 70, 10)])
    assert len(set(runs[0])) == 7 and runs[0] == runs[1]
    assert not set(runs[0]) & set(runs[2])


@pytest.mark.parametrize('bad, met', [((3, 7), True), (range(100), False)])
def test_batches_with_a_loss_that_is_nan_count_for_nothing(tmp_path, monkeypatch, bad, met):
    calls = itertools.count(-2)  # the trial and the pass that shows what runs

    def spoiled(model, batch):
        return batch_loss(model, batch) * (torch.nan if next(calls) in bad else 1)

    monkeypatch.setattr('mmpsbn.engine.demp.score_passes.batch_loss', spoiled)
    runner, messages = train(tmp_path, [at_once(flops=0.7)], iters=3, model=WIDE)
    said = f'{2 if met else 10} of 10 batches had a loss or gradients that are NaN or infinite'
    assert any(m.startswith(said) for m in messages)
    assert not any('the loss says nothing' in m for m in messages)
    assert pruner_of(runner).budget.met is met


class Checkpointed(ToyNet):
    """Its second block is run again for its gradients."""

    def __init__(self):
        super().__init__(width=32, inner=48)
        block = self.blocks[1]
        plain = block.forward
        block.forward = lambda x: (
            checkpoint(plain, x, use_reentrant=True) if x.requires_grad else plain(x)
        )


def test_scores_go_through_checkpoints_or_are_refused_at_the_start(tmp_path):
    _, messages = train(tmp_path / 'snap', [at_once(flops=0.7)], iters=1, model=Checkpointed())
    assert len(events_of(messages)) == 1
    assert not any('the loss says nothing' in m for m in messages)
    gradual = dict(type='DemPHook', budget=dict(flops=0.7, score='cropit'))
    look = Look()
    with pytest.raises(RuntimeError, match=r"score='cropit' cannot .* \(with_cp=True\) .* 'snap'"):
        train(tmp_path / 'cropit', [gradual, look], iters=100, model=Checkpointed())
    assert not look.labels  # before the first step


def test_a_cut_at_the_start_that_is_undone_ends_neither_the_run_nor_a_resumed_one(
    tmp_path, monkeypatch
):
    def wrong(model, groups, keep_masks, **how):
        raise VerificationError('the outputs differ', groups=list(groups))

    monkeypatch.setattr('mmpsbn.engine.demp.budget_pruner.prune_channels', wrong)
    runner, messages = train(tmp_path / 'first', [at_once()], iters=6, model=WIDE)
    assert runner.iter == 6 and any('they stay whole' in m for m in messages)
    assert any('budget flops=0.4 is missed' in m for m in messages)
    again = resume_from(tmp_path / 'first/iter_5.pth')
    runner, _ = train(tmp_path / 'again', [at_once()], iters=8, model=WIDE, **again)
    assert runner.iter == 8 and inner_widths(bare_model(runner)) == [48, 48]


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


@pytest.mark.parametrize('ranks, drops, epoch', [(1, False, 4), (2, False, 2), (1, True, 3)])
def test_an_epoch_is_all_samples_once_over_all_ranks(tmp_path, monkeypatch, ranks, drops, epoch):
    """The loader of a sampler that never ends is as long on each rank as the data."""
    monkeypatch.setattr('mmpsbn.engine.demp.budget_schedule.get_world_size', lambda: ranks)

    def drop(runner):
        endless = InfiniteSampler(ToyData())  # at an end MMEngine waits for two seconds
        data = DataLoader(ToyData(), batch_size=9, sampler=endless, drop_last=True)
        runner._train_dataloader = data if drops else runner._train_dataloader

    hook = dict(type='DemPHook', budget=dict(flops=0.4, timing='early'))
    log = dict(log_processor=dict(by_epoch=False))
    _, messages = train(tmp_path, [hook], drop, iters=6, model=WIDE, **log)
    assert any(f'the first epoch of {epoch} iterations' in m for m in messages)


def test_the_first_weights_are_known_after_a_resume(tmp_path):
    hook = at_once(flops=0.7, score='cropit', timing='early')
    whole = assert_resumes(
        tmp_path, [hook], at='epoch_1.pth', epochs=4, model=WIDE, optim_wrapper=FAST
    )
    assert pruner_of(whole).budget.met
    start, end = (torch.load(tmp_path / f'whole/epoch_{k}.pth', weights_only=False) for k in (1, 4))
    first = [s['meta']['mmpsbn']['pruner']['schedule']['first'] for s in (start, end)]
    assert len(first[0]) == 17 and first[1] == {}


@pytest.mark.parametrize(
    'timing, score, needs',
    [
        ('start', 'snap', "score='snap' and timing='start'"),
        ('gradual', 'cropit', "score='cropit'"),
        ('early', 'l1', "timing='early'"),
    ],
)
def test_data_without_a_length_are_refused(tmp_path, timing, score, needs):
    hook = at_once(score=score, timing=timing)
    with pytest.raises(TypeError, match=f'Stream has none; leave {needs} out'):
        train(tmp_path, [hook], stream, **STREAM)


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
