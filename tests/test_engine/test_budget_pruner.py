"""Runs with a budget: channels are chosen, cut in steps that were planned, and the log says so."""

import math
import re
import time

import pytest
import torch
from budget_runs import AVERAGE, WIDE, choosing, events_of, params, run
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS
from runs import (
    assert_resumes,
    inner_widths,
    pruner_of,
    resume_from,
    scalars,
    state_of,
    train,
)
from snapshots import assert_same
from test_training_only import IdleBranchNet
from toy import ToyNet, kill_channels

from mmpsbn.engine.demp import budget, latency
from mmpsbn.engine.demp.budget_pruner import BudgetPruner
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.pruning.cost import median_seconds
from mmpsbn.pruning.saliency import GateSaliency
from mmpsbn.pruning.verification import output_errors, probe_outputs


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """A run of 100 iterations, cut at 10, 20, 30 and 40, with an average, and what it has said."""
    return run(tmp_path_factory.mktemp('half'), hooks=[AVERAGE])


# --- one line, and the schedule is kept -----------------------------------------------------------


@pytest.mark.parametrize('kind, target', [('flops', 0.15), ('params', 0.4)])
def test_every_cut_comes_within_2_percent_of_what_was_planned(tmp_path, kind, target):
    runner, messages = run(tmp_path, hook=choosing(**{kind: target}), iters=200)
    pruner = pruner_of(runner)
    if kind == 'flops':
        left = pruner.progress.left['macs']
    else:
        left = params(runner.model) / params(ToyNet(width=32, inner=48))
    assert left == pytest.approx(pruner.budget.left) and pruner.budget.met
    assert abs(left / target - 1) <= 0.02
    said = [re.search(r': (\S+)% of the \w+ left, (\S+)% planned', m) for m in messages]
    shares = [(float(m[1]) / 100, float(m[2]) / 100) for m in said if m]
    events = events_of(messages)
    assert len(shares) == len(events) == len(pruner._schedule.events) == 8
    for k, (found, planned) in enumerate(shares, 1):
        assert planned == pytest.approx(1 - k / 8 * (1 - target), abs=1e-3)
        assert abs(found / planned - 1) <= 0.02
    assert iterations_of(events) == [*range(10, 81, 10)]


def test_the_run_ends_as_an_ordinary_one(tmp_path):
    """No penalty, no noise: before the first cut the weights are those of a run without a hook."""
    plain, _ = train(tmp_path / 'plain', iters=50, model=WIDE)
    chosen, _ = run(tmp_path / 'budget', iters=50, hook=choosing(flops=0.5, begin=0.4, end=0.9))
    plain, whole = (
        torch.load(f'{w.work_dir}/iter_30.pth', weights_only=False) for w in (plain, chosen)
    )
    assert_same(whole['state_dict'], plain['state_dict'])


ONE_LINE = dict(type='DemPHook', budget=dict(flops=0.5))


def iterations_of(events):
    return [int(re.search(r'iteration (\d+)', event)[1]) for event in events]


def test_one_line_is_all_it_takes(tmp_path):
    runner, messages = run(tmp_path, iters=50, hook=ONE_LINE)
    assert pruner_of(runner).budget.met and iterations_of(events_of(messages)) == [20, 30]
    with pytest.raises(ValueError, match='no room for 2 cuts .* train for 50 iterations or more'):
        run(tmp_path, iters=49, hook=ONE_LINE)


def test_a_run_that_begins_with_a_checkpoint_is_cut_early_also_when_it_is_resumed(tmp_path):
    run(tmp_path / 'before', iters=10, hook=dict(type='SparsityHook'))
    begun = dict(load_from=str(tmp_path / 'before/iter_10.pth'))
    _, messages = run(tmp_path / 'finetuned', hook=ONE_LINE, iters=200, **begun)
    assert iterations_of(events_of(messages)) == [10, 20]
    begun = resume_from(tmp_path / 'finetuned/iter_15.pth')
    _, messages = run(tmp_path / 'resumed', hook=ONE_LINE, iters=200, **begun)
    assert iterations_of(events_of(messages)) == [20]
    assert any('flops=0.5: cuts after 20 iterations,' in m for m in messages)


@torch.no_grad()
def silence(runner):
    """Channels 0 to 19 of the first block are dead, 20 to 39 nearly so."""
    norm = bare_model(runner).blocks[0].bn1
    kill_channels(norm, range(20))
    norm.weight[20:40] = 1e-3
    norm.bias[20:40] = 1e-3


def test_what_the_loss_misses_least_goes_first(tmp_path):
    hook = choosing(flops=0.5, end=0.9, cuts=2)
    slow = dict(optimizer=dict(type='SGD', lr=1e-6))
    runner, messages = run(tmp_path, silence, iters=25, hook=hook, optim_wrapper=slow)
    gammas = runner.model.blocks[0].bn1.weight
    assert (gammas > 0.5).sum() == 8 and (gammas != 0).all()
    first, second = events_of(messages)
    assert re.search(r'\(20 dead and (none|\d+) alive, with \d.\d% of the saliency\)', first)
    assert re.search(r'\(none dead and \d+ alive, with \d+.\d% of the saliency\)', second)


@MODELS.register_module(force=True)
class NormEvalNet(ToyNet):
    """As a backbone with norm_eval=True."""

    def train(self, mode=True):
        super().train(mode)
        self.blocks[1].bn1.eval()
        return self


def test_frozen_layers_and_norm_layers_in_eval_mode(tmp_path):
    def freeze(runner):
        runner.model.blocks[0].requires_grad_(False)
        runner.model.blocks[1].bn1.running_mean.fill_(0.25)

    model = WIDE | dict(type='NormEvalNet')
    runner, _ = run(tmp_path, freeze, hook=choosing(flops=0.7), model=model)
    first, second = runner.model.blocks
    assert first.conv1.out_channels == 48 > second.conv1.out_channels
    assert (second.bn1.running_mean == 0.25).all()  # it was in eval mode in all iterations
    assert pruner_of(runner).budget.met


@pytest.mark.parametrize(
    'wrapper, norm',
    [
        (dict(type='BFloat16OptimWrapper'), 'psBN'),
        (dict(accumulative_counts=2), 'psBN'),
        (dict(clip_grad=dict(max_norm=0.1)), 'BN'),
    ],
)
def test_optimizer_wrappers(tmp_path, wrapper, norm):
    wrapper = dict(wrapper, optimizer=dict(type='AdamW', lr=1e-3))
    model = dict(WIDE, norm_cfg=dict(type=norm))
    runner, messages = run(tmp_path, iters=150, model=model, optim_wrapper=wrapper)
    assert abs(pruner_of(runner).budget.left / 0.5 - 1) <= 0.02
    assert len(events_of(messages)) == (3 if 'accumulative_counts' in wrapper else 6)


def test_within_a_step_biases_of_psbn_count_as_what_the_layers_add(tmp_path, monkeypatch):
    add, counted = GateSaliency.add, []

    def note(saliency, *, shifted=(), **how):
        counted.append([name for name, p in named if p not in shifted])
        add(saliency, shifted=shifted, **how)

    def name_parameters(runner):
        named.extend(runner.model.named_parameters())

    named = []
    monkeypatch.setattr(GateSaliency, 'add', note)
    model = dict(WIDE, norm_cfg=dict(type='psBN'))
    run(tmp_path, name_parameters, iters=50, model=model)
    assert len(counted) == 20 and not any(counted)


@pytest.mark.parametrize('iteration', [5, 20, 35, 45])  # before, at, between and after the cuts
def test_a_run_resumed_within_the_schedule_ends_bit_equal(tmp_path, half, iteration):
    whole, _ = half
    more = resume_from(f'{whole.work_dir}/iter_{iteration}.pth')
    resumed, _ = run(tmp_path, hooks=[AVERAGE], **more)
    assert_same(state_of(resumed), state_of(whole))
    assert pruner_of(resumed).progress.left == pruner_of(whole).progress.left
    assert pruner_of(resumed).budget.met


def test_a_run_resumed_with_another_score_watches_anew(tmp_path):
    run(tmp_path, iters=50, hook=choosing(score='l1'))
    more = resume_from(tmp_path / 'iter_5.pth')
    _, messages = run(tmp_path, iters=50, **more)
    assert all('alive, with' in event for event in events_of(messages))
    assert iterations_of(events_of(messages)) == [10, 20]


def test_a_resumed_run_whose_cuts_are_past_says_that_the_budget_is_missed(tmp_path, half):
    more = resume_from(f'{half[0].work_dir}/iter_25.pth')
    _, messages = run(tmp_path, iters=50, **more)
    assert events_of(messages) == []
    missed = [m for m in messages if 'budget flops=0.5 is missed: ' in m]
    assert len(missed) == 2  # at once, and at the end
    assert any('flops=0.5: no cut is left,' in m for m in messages)


def test_channels_stay_whose_reader_does_not_train(tmp_path):
    """No gradient tells what it needs."""
    model, hook = IdleBranchNet(width=32), choosing(flops=0.8)
    runner, messages = run(tmp_path, hook=hook, iters=50, model=model)
    assert inner_widths(runner.model)[0] == 12 > inner_widths(runner.model)[1]
    assert any('branch reads it and does not run in training' in m for m in messages)


@torch.no_grad()
def held_from_the_second_iteration(runner):
    """As if the losses of the second iteration were found to hold the first block's channels."""
    pruner = pruner_of(runner)
    check = pruner._coverage.check

    def hold(*args, **kwargs):
        check(*args, **kwargs)
        if runner.iter == 1:
            pruner._coverage.held.add('blocks.0.conv1')

    pruner._coverage.check = hold


def test_a_run_resumed_after_a_group_was_held_goes_on_with_the_others(tmp_path):
    kwargs = dict(at='iter_5.pth', iters=50, model=WIDE)
    assert_resumes(tmp_path, [choosing(flops=0.8)], held_from_the_second_iteration, **kwargs)


def test_a_latency_is_that_of_the_clock_and_the_size_that_all_counts_are_for(tmp_path, monkeypatch):
    clocks = []

    def of_the_thread(run, *, clock):
        assert clock is time.thread_time  # which other processes hardly change
        return median_seconds(run, clock=clock)

    monkeypatch.setattr(latency, 'median_seconds', of_the_thread)

    def measured(model, image, device):
        clocks.append((tuple(image.shape), device))
        return latency.milliseconds(model, image, device)

    monkeypatch.setattr(budget, 'milliseconds', measured)
    hook = choosing(latency=0.8, device='onnxruntime', cuts=2)
    runner, messages = run(tmp_path, iters=60, hook=hook)
    pruner = pruner_of(runner)
    assert set(clocks) == {((1, 3, 8, 8), 'onnxruntime')}
    assert any(f'widths in {pruner.budget.widths}' in m for m in messages)
    plans = [m for m in messages if '% planned' in m]
    assert 'of the macs left' in plans[0] and 'of the latency_ms left' in plans[-1]
    assert 0.05 < pruner.progress.left['macs'] < 1


# --- the log --------------------------------------------------------------------------------------


def test_the_log_tells_what_was_planned_what_went_and_what_the_loss_did(half):
    runner, messages = half
    events = events_of(messages)
    pattern = r'channels removed \((\w+) dead and (\w+) alive, with (\S+)% of the saliency\), '
    assert all(re.search(pattern, event) for event in events)
    compared = r'and are those with these channels masked to 0 after reconstruction within (\S+);'
    assert all(float(re.search(compared, event)[1]) < 1e-5 for event in events)
    begun = r'budget flops=0.5: cuts after .*, widths in .*; the least that can be left is \d.\d%'
    assert sum(bool(re.fullmatch(begun, m)) for m in messages) == 1
    plans = [m for m in messages if '% planned' in m]
    assert re.fullmatch(
        r'budget flops=0.5: 8\d.\d% of the macs left, 87.5% planned by now, 50.0% in the end',
        plans[0],
    )
    assert re.fullmatch(
        r'budget flops=0.5 is met: (49|50).\d% of the macs left, 50.0% planned; no more channels '
        'go',
        plans[-1],
    )
    losses = [re.match(r'the loss was (\S+) in the \d+ iterations before', m) for m in messages]
    losses = [float(m[1]) for m in losses if m]
    seen = [record['loss'] for record in scalars(runner, 'loss')]
    # the first cut is at iteration 10; the logger's smoothing window is longer than that
    assert len(losses) == len(events) == 4
    assert losses[0] == pytest.approx(seen[9], rel=1e-3)
    assert {'demp/channels_left', 'demp/macs_left'} <= scalars(runner, 'loss')[-1].keys()
    assert not any('strength' in key for key in scalars(runner, 'loss')[-1])


@pytest.mark.parametrize('at_once', [False, True])
def test_each_cut_says_what_it_changes(tmp_path, monkeypatch, at_once):
    """At once: several cuts of one event, each of what the one before it has left."""
    changes, cut = [], BudgetPruner._cut

    def spied(pruner, event, *how):
        before = probe_outputs(event.model, event.probe, forward_tensors)
        removal = cut(pruner, event, *how)
        after = probe_outputs(event.model, event.probe, forward_tensors)
        changes.append(output_errors(before, after)[1])
        return removal

    monkeypatch.setattr(BudgetPruner, '_cut', spied)
    how = dict(score='snap', timing='start') if at_once else dict(end=0.6, cuts=2)
    hook = dict(type='DemPHook', budget=dict(flops=0.3, **how), prune=dict(round_to=1))
    if not at_once:
        hook['budget']['begin'] = 0.0
    _, messages = run(tmp_path, iters=50, hook=hook)
    said = [float(re.search(r'changed by (\S+), and are', m)[1]) for m in events_of(messages)]
    assert said == pytest.approx(changes[: len(said)], rel=0.06) and len(set(said)) == len(said) > 1


@OPTIM_WRAPPERS.register_module(force=True)
class SkippingWrapper(OptimWrapper):
    """Skips every second step, as a loss scaler does after an overflow."""

    def step(self, **kwargs):
        if self._inner_count % 2:
            super().step(**kwargs)


def test_a_step_that_is_skipped_leaves_nothing_in_the_gates(tmp_path):
    left = []

    class Look(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if pruner_of(runner)._scorer.is_open:
                gates = pruner_of(runner)._scorer._saliency._gates
                left.extend(factor.grad for factor in gates._factors)

    model = WIDE | dict(norm_cfg=dict(type='BN', requires_grad=False))
    wrapper = dict(type='SkippingWrapper', optimizer=dict(type='SGD', lr=0.01))
    runner, _ = run(tmp_path, model=model, hooks=[Look()], optim_wrapper=wrapper, iters=60)
    assert pruner_of(runner).budget.met and left and not any(g is not None for g in left)


class SpoilGradients(Hook):
    """Gradients that are NaN at these iterations, for the hooks to see; the step finds zeros."""

    priority = 'LOW'  # after DemPHook has put its own hook on the steps

    def __init__(self, *iterations):
        self.iterations = iterations

    def _write(self, runner, value):
        def write(*_):
            if runner.iter in self.iterations:
                runner.model.norm.weight.grad.fill_(value)

        runner.optim_wrapper.optimizer.register_step_pre_hook(write)

    def before_train(self, runner):
        self._write(runner, math.nan)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self._write(runner, 0.0)


def test_steps_whose_gradients_are_no_numbers_count_for_nothing(tmp_path):
    runner, messages = run(tmp_path, hooks=[SpoilGradients(3, 5, *range(20, 30))])
    assert sum('2 of 10 optimizer steps had gradients that are NaN' in m for m in messages) == 1
    assert any('of no channel a gradient has told anything' in m for m in messages)
    assert len(events_of(messages)) == 3 and pruner_of(runner).budget.met


def test_the_last_cut_is_tried_again_where_it_had_to_be_skipped(tmp_path):
    runner, messages = run(tmp_path, hooks=[SpoilGradients(*range(30, 45))])
    assert any('another try comes at iteration 50' in m for m in messages)
    assert not any('the run has ended' in m for m in messages)
    assert 'iteration 50:' in events_of(messages)[-1] and pruner_of(runner).budget.met
    assert 'is met' in [m for m in messages if m.startswith('budget')][-1]


def test_in_the_last_tenth_it_is_not_tried_again(tmp_path):
    spoilt = SpoilGradients(*range(70, 100))
    runner, messages = run(tmp_path, hook=choosing(end=0.85), hooks=[spoilt])
    assert iterations_of(events_of(messages))[-1] < 80 and not pruner_of(runner).budget.met
    assert not any('another try' in m for m in messages)
    assert 'is missed' in [m for m in messages if m.startswith('budget')][-1]


def test_layers_are_watched_in_the_first_iteration_and_in_ten_steps_before_a_cut(tmp_path):
    watched = []

    class NoteWatching(Hook):
        priority = 'LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if pruner_of(runner).watching:
                watched.append(runner.iter)

    run(tmp_path, hook=choosing(flops=0.5, end=0.6, cuts=2), hooks=[NoteWatching()])
    assert watched == [0, *range(20, 30), *range(50, 60)]


def test_another_score_is_called_by_its_name(tmp_path):
    runner, messages = run(tmp_path, hook=choosing(score='l1', cuts=1, end=0.1))
    (event,) = events_of(messages)
    assert 'channels removed (chosen by l1), ' in event and pruner_of(runner).budget.met
