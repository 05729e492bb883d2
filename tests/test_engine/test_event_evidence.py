"""What a prune event must have seen before a channel goes: of every branch, average and rank."""

import copy
import logging
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import toy
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from runs import (
    EMA,
    around_events,
    average_of,
    demp,
    inner_widths,
    killing,
    pruner_of,
    resume_from,
    scalars,
    state_of,
    train,
)
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.demp import prune_event
from mmpsbn.engine.demp.settings import PruneSettings
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.engine.ranks import joined_scores
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.pruning import trace_channel_graph
from mmpsbn.pruning.activation import ActivationWindow

HOOK = demp(num_samples=24)


# --- branches ----------------------------------------------------------------------------


@MODELS.register_module(force=True)
class Routed(BaseModel):
    """The first picture of every so manieth batch goes to one branch, the others to the other
    one; channels 0 and 1 are dead in both."""

    def __init__(self, every):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.every, self.batches = every, 0
        self.common, self.seldom = (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            for _ in range(2)
        )
        for branch in (self.common, self.seldom):
            nn.init.constant_(branch[1].bias, 1.0)
            kill_channels(branch[1], [0, 1])

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'tensor':
            return self.seldom(inputs), self.common(inputs)
        self.batches += 1
        first = int(self.batches % self.every == 0)
        x = torch.cat([self.seldom(inputs[:first]), self.common(inputs[first:])])
        return dict(loss=F.cross_entropy(x.mean((2, 3)), labels))


@pytest.mark.parametrize('every, width', [(10**9, 6), (4, 6), (1, 4)])
def test_a_branch_that_saw_little_or_nothing_loses_nothing(tmp_path, every, width):
    # a window of 6 batches; of 24 samples a layer must have seen 3
    hook, model = demp(interval=7, num_samples=24), dict(type='Routed', every=every)
    runner, _ = train(tmp_path, [hook], epochs=1, batch_size=4, model=model)
    assert [b[0].out_channels for b in (runner.model.common, runner.model.seldom)] == [4, width]


# --- averages ----------------------------------------------------------------------------


@HOOKS.register_module(force=True)
class OftenDead(Hook):
    """Channel 3 dies in the model; in the average it fires on the ``alive`` brightest of the 32
    pictures."""

    priority = 'HIGH'

    def __init__(self, alive):
        self.alive = alive

    @torch.no_grad()
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != 1:
            return
        kill_channels(runner.model.blocks[0].bn1, [3])
        average, pictures = average_of(runner).eval(), runner.train_dataloader.dataset.inputs
        norm, seen = average.blocks[0].bn1, []
        handle = norm.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        average(pictures)
        handle.remove()
        peaks = seen[0][:, 3].amax((1, 2)).sort(descending=True).values
        norm.bias[3] -= (peaks[self.alive] + peaks[self.alive - 1]) / 2 if self.alive else peaks[0]
        self.expected = average(pictures)


@pytest.mark.parametrize('alive, width', [(3, 12), (1, 12), (0, 11)])
def test_a_channel_that_the_average_needs_on_a_few_samples_stays(tmp_path, alive, width):
    hook = OftenDead(alive)
    average = dict(type='EMAHook', momentum=1e-9, update_buffers=True)
    # the window is an epoch: it sees every picture
    prunes = demp(interval=8, num_samples=32, tolerance=1e-10)
    runner, _ = train(tmp_path, [prunes, average, hook], epochs=2, dtype=torch.float64)
    after = average_of(runner).eval()(runner.train_dataloader.dataset.inputs)
    assert average_of(runner).blocks[0].conv1.out_channels == width
    torch.testing.assert_close(after, hook.expected, rtol=1e-7, atol=1e-7)


@HOOKS.register_module(force=True)
class Spoil(Hook):
    """NaN in the classifier of the model, or of its average alone."""

    priority = 'VERY_LOW'

    def __init__(self, of):
        self.of = of

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.of(runner).fc.bias.data[0] = torch.nan


@pytest.mark.parametrize('of', [bare_model, average_of])
def test_nan_outputs_skip_the_event_and_blame_nobody(tmp_path, of):
    hooks = [HOOK, EMA, Spoil(of)]
    runner, messages = train(tmp_path, hooks, killing([1, 3]), epochs=2)
    assert inner_widths(runner.model) == [12, 12]
    assert pruner_of(runner).state()['samples'] == 0  # none carries over
    assert sum('are NaN or inf before pruning; this prune event' in m for m in messages) == 1
    assert not any('changes the outputs' in m for m in messages)


def test_what_is_nan_in_a_window_is_never_dead(caplog):
    model, x = ToyNet(), torch.randn(2, 3, 8, 8)
    groups = trace_channel_graph(model, x, forward_tensors).groups
    window = ActivationWindow(model, groups, in_training_only=True)
    model.blocks[0].bn1.weight.data[4] = torch.nan
    model.train()(x)
    score = joined_scores([window], logging.getLogger())['blocks.0.conv1']
    assert score.isinf().nonzero().flatten().tolist() == [4]
    assert 'blocks.0.conv1: NaN or inf in the activations of 1 channels' in caplog.text


def test_a_saved_window_of_another_width_is_an_error_that_names_the_layer():
    model = ToyNet()
    groups = trace_channel_graph(model, torch.randn(1, 3, 8, 8), forward_tensors).groups
    window = ActivationWindow(model, groups, in_training_only=False)
    with pytest.raises(ValueError, match='fc reads 8 channels, its saved window has 1'):
        window.restore(dict(fc=dict(samples=1, low=[0.0], high=[0.0])))


def test_the_outputs_of_averages_are_verified_and_all_models_put_back(tmp_path, monkeypatch):
    states = []

    def of_its_width_in_the_average(model, inputs):
        out = forward_tensors(model, inputs)
        return out if model is runner.model else out + model.blocks[0].conv1.out_channels

    def note(runner):
        states.append(copy.deepcopy(state_of(runner)))

    monkeypatch.setattr(prune_event, 'forward_tensors', of_its_width_in_the_average)
    runner = toy_runner(tmp_path, [HOOK, EMA], epochs=2)
    killing([1], [1])(runner)
    around_events(note, note)(runner)
    runner.train()
    assert inner_widths(runner.model) == inner_widths(average_of(runner)) == [12, 11]
    before, after = states
    for old, new in zip(before[:2], after[:2]):  # of the first block nothing has moved
        for key in ('blocks.0.conv1.weight', 'blocks.0.bn1.weight', 'blocks.0.conv2.weight'):
            assert torch.equal(old[key], new[key])


# --- the probe, other passes and a resume --------------------------------------------------


def test_a_channel_that_the_probe_finds_alive_stays_and_holds_none_back(tmp_path):
    """Channel 3 is dead in training passes, whose statistics are the batch's, and not in eval
    mode."""

    def kill(runner):
        killing([1])(runner)
        runner.model.blocks[0].bn1.bias.data[3] = -100.0

    def wake(runner):
        runner.model.blocks[0].bn1.running_mean[3] = -1e6

    runner, _ = train(tmp_path, [HOOK], kill, around_events(wake), epochs=2)
    assert inner_widths(runner.model) == [11, 12]


def test_a_validation_within_a_window_is_not_counted(tmp_path):
    """Channel 1 is dead in training; in one pass in eval mode it is not."""

    class Validate(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 4:
                runner.model.blocks[0].bn1.bias.data[1] = 1.0
                runner.model.eval()(data_batch['inputs'])
                kill_channels(runner.model.blocks[0].bn1, [1])
                runner.model.train()

    runner, _ = train(tmp_path, [HOOK, Validate()], killing([1]), epochs=2)
    assert inner_widths(runner.model) == [11, 12]


def samples_of(messages):
    """On how many samples each event has looked."""
    events = [m for m in messages if m.startswith('prune event')]
    return [int(re.search(r'dead on (\d+) samples', event)[1]) for event in events]


def test_a_resumed_window_knows_how_many_samples_it_was_open_for(tmp_path):
    hook = demp(num_samples=48)
    for more in ({}, resume_from(tmp_path / 'epoch_1.pth')):
        _, messages = train(tmp_path, [hook], killing([1]), epochs=2, **more)
        assert samples_of(messages) == [48]


def test_a_run_resumed_with_smaller_batches_looks_at_as_many_samples(tmp_path):
    hooks = [demp(interval=4)]
    train(tmp_path / 'first', hooks, epochs=2, batch_size=16)
    more = resume_from(tmp_path / 'first/epoch_1.pth')
    _, messages = train(tmp_path / 'resumed', hooks, epochs=3, batch_size=4, **more)
    first, *others = samples_of(messages)
    assert first == 8  # it goes on two iterations before
    assert len(others) > 1 and set(others) == {16}


def test_a_budget_leaves_a_branch_whole_that_no_sample_reaches(tmp_path):
    """What it adds to the loss is unknown, and not 0."""
    hook = dict(type='DemPHook', budget=dict(params=0.7))
    model = dict(type='Routed', every=10**9)
    runner, _ = train(tmp_path, [hook], epochs=15, model=model)
    assert runner.model.seldom[0].out_channels == 6
    assert runner.model.common[0].out_channels < 4


# --- the log -----------------------------------------------------------------------------


def kill_and_hold_a_constant(runner):
    """Three channels are dead, the next one is a constant 0.5."""
    norm = runner.model.blocks[0].bn1
    kill_channels(norm, [0, 1, 2])
    with torch.no_grad():
        norm.weight[3], norm.bias[3] = 0, 0.5
        norm.weight.requires_grad_(False), norm.bias.requires_grad_(False)


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(), '3 channels removed (3 dead on 16 samples), '),
        (dict(num_samples=20), '3 channels removed (3 dead on 24 samples), '),  # 3 batches of 8
        (
            dict(criterion='collapsed', fold_padding=True, tolerance=10.0),
            '4 channels removed (3 dead on 16 samples, 1 collapsed (|gamma| < 0.001)), ',
        ),
        (
            # of 12 channels 3 are dead, and 9 are nearest to 8
            dict(round_to=8, allow_live=True),
            '4 channels removed (3 dead on 16 samples, 1 live), ',
        ),
        (dict(min_channels=12), '0 channels removed (none dead on 16 samples), '),
    ],
)
def test_what_was_removed_is_called_what_it_was(tmp_path, settings, said):
    hook = demp(interval=4, **settings)
    _, messages = train(tmp_path, [hook], kill_and_hold_a_constant, epochs=1)
    (event,) = [m for m in messages if m.startswith('prune event')]
    assert said in event


def test_what_is_never_positive_goes_and_the_log_says_what_that_changes(tmp_path, monkeypatch):
    """Behind a Leaky ReLU it is not 0 (DemP appendix F.7)."""
    leaky = partial(F.leaky_relu, negative_slope=0.1)
    monkeypatch.setattr(toy, 'F', SimpleNamespace(relu=leaky, cross_entropy=F.cross_entropy))
    seen = {}

    def remember(runner):
        pruner, seen['model'] = pruner_of(runner), copy.deepcopy(runner.model)
        probe_of = pruner._probe_of

        def noted(*args):
            seen['probe'] = probe_of(*args)
            return seen['probe']

        pruner._probe_of = noted

    def compare(runner):
        with torch.no_grad():
            before, after = (m.eval()(seen['probe']) for m in (seen['model'], runner.model))
        runner.model.train()
        seen['change'] = float((after - before).abs().max() / before.abs().max())

    spy = around_events(remember, compare)
    dead = demp(interval=4, criterion='dead')
    _, messages = train(tmp_path / 'dead', [dead], killing([0, 1, 2]), epochs=1)
    assert any('0 channels removed (none dead on 16 samples)' in m for m in messages)
    never = demp(interval=4, criterion='never_positive')
    runner, messages = train(tmp_path / 'never', [never], killing([0, 1, 2]), spy, epochs=1)
    (event,) = [m for m in messages if m.startswith('prune event')]
    assert '3 channels removed (3 never positive on 16 samples), ' in event
    assert inner_widths(runner.model) == [9, 12]
    said = re.search(r'changed by (\S+), and are .* masked to 0 within (\S+);', event)
    assert float(said[1]) == pytest.approx(seen['change'], rel=0.06) and seen['change'] > 1e-4
    assert float(said[2]) < 1e-5


@pytest.mark.parametrize('interval, width', [(36, 8), (37, 12)])
def test_in_the_last_tenth_of_a_run_no_live_channel_goes(tmp_path, interval, width):
    hook = demp(interval=interval, allow_live=True, round_to=8)
    runner, _ = train(tmp_path, [hook], killing([0]), iters=40)
    assert inner_widths(runner.model) == [width, 12]


def test_the_log_line_shows_strengths_that_its_four_decimals_can_hold(tmp_path):
    hook = demp(interval=4, penalty=1e-3, noise=5e-5)
    hook['schedule'] = dict(type='constant')
    runner, messages = train(tmp_path, [hook], epochs=1)
    line = next(m for m in messages if 'Epoch(train)' in m)
    expected = dict(strength=1.0, channels_left=1.0, macs_left=1.0)
    found = dict(re.findall(r'demp/(\w+): (\S+)', line))
    assert found == {name: f'{value:.4f}' for name, value in expected.items()}
    assert scalars(runner, 'demp/strength')[0]['demp/strength'] == 1


def test_of_what_is_unknown_nothing_is_removed_as_live():
    model = ToyNet(inner=8)
    graph = trace_channel_graph(model, torch.zeros(1, 3, 8, 8), forward_tensors)
    (name,) = (n for n in graph.groups if n == 'blocks.0.conv1')
    with torch.no_grad():
        model.blocks[0].bn1.weight.copy_(torch.arange(1.0, 9.0))  # channel 0 matters least
    scores = torch.ones(8)
    scores[2:5], scores[0] = 0, torch.inf  # 5 are left, and a multiple of 4 is one below
    settings = PruneSettings(round_to=4, allow_live=True)
    masks, live = prune_event.select_keep_masks([model], graph, {name: scores}, settings)
    assert live and (~masks[name]).nonzero().flatten().tolist() == [1, 2, 3, 4]
