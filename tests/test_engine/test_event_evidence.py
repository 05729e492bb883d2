"""What a prune event must have seen before a channel goes: of every branch, average and rank."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from ranks import ON_RANKS, run_on_ranks
from snapshots import assert_same
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.demp import online_pruner, prune_event
from mmpsbn.engine.demp.demp_hook import DemPHook
from mmpsbn.engine.runner_parts import averaged_models_of, bare_model

QUIET = dict(penalty=dict(peak=0.0), noise=dict(peak_std=0.0))
HOOK = dict(type='DemPHook', prune=dict(interval=6, num_samples=24), **QUIET)


def pruner_of(runner):
    return next(hook.pruner for hook in runner.hooks if isinstance(hook, DemPHook))


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
    hook = dict(HOOK, prune=dict(interval=7, num_samples=24))
    runner = toy_runner(
        tmp_path, [hook], epochs=1, batch_size=4, model=dict(type='Routed', every=every)
    )
    runner.train()
    assert [b[0].out_channels for b in (runner.model.common, runner.model.seldom)] == [4, width]


# --- averages ----------------------------------------------------------------------------


def average_of(runner):
    return averaged_models_of(runner)[0]


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
    demp = dict(HOOK, prune=dict(interval=8, num_samples=32, tolerance=1e-10))
    runner = toy_runner(tmp_path, [demp, average], epochs=2, dtype=torch.float64)
    runner.register_hook(hook)
    runner.train()
    after = average_of(runner).eval()(runner.train_dataloader.dataset.inputs)
    assert average_of(runner).blocks[0].conv1.out_channels == width
    torch.testing.assert_close(after, hook.expected, rtol=1e-7, atol=1e-7)


def log_of(runner):
    messages = []
    runner.logger.handlers.append(
        SimpleNamespace(level=0, handle=lambda record: messages.append(record.getMessage()))
    )
    return messages


def test_nan_in_an_average_alone_skips_the_event(tmp_path):
    runner = toy_runner(tmp_path, [HOOK, dict(type='EMAHook')], epochs=2)
    kill_channels(runner.model.blocks[0].bn1, [1])

    class Spoil(Hook):
        priority = 'VERY_LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            average_of(runner).fc.bias.data[0] = torch.nan

    runner.register_hook(Spoil())
    messages = log_of(runner)
    runner.train()
    assert runner.model.blocks[0].conv1.out_channels == 12
    assert sum('are NaN or inf before pruning; this prune event' in m for m in messages) == 1
    assert not any('changes the outputs' in m for m in messages)


def test_the_outputs_of_averages_are_verified_and_all_models_put_back(tmp_path, monkeypatch):
    before, forward_tensors = {}, prune_event.forward_tensors

    def state(runner):
        models = [m.state_dict() for m in (runner.model, *averaged_models_of(runner))]
        return copy.deepcopy([*models, runner.optim_wrapper.state_dict()])

    def of_its_width_in_the_average(model, inputs):
        out = forward_tensors(model, inputs)
        return out if model is runner.model else out + model.blocks[0].conv1.out_channels

    prune = online_pruner.OnlinePruner.prune

    def spy(self, runner, data_batch):
        before.update(state=state(runner))
        prune(self, runner, data_batch)
        before.update(after=state(runner))

    monkeypatch.setattr(online_pruner.OnlinePruner, 'prune', spy)
    monkeypatch.setattr(prune_event, 'forward_tensors', of_its_width_in_the_average)
    runner = toy_runner(tmp_path, [HOOK, dict(type='EMAHook')], epochs=2)
    for block in runner.model.blocks:
        kill_channels(block.bn1, [1])
    runner.train()
    widths = [block.conv1.out_channels for block in runner.model.blocks]
    assert widths == [block.conv1.out_channels for block in average_of(runner).blocks] == [12, 11]
    for old, new in zip(before['state'], before['after']):  # of the first block nothing has moved
        for key in ('blocks.0.conv1.weight', 'blocks.0.bn1.weight', 'blocks.0.conv2.weight'):
            if key in old:
                assert torch.equal(old[key], new[key])


# --- the probe, other passes and a resume --------------------------------------------------


def test_a_channel_that_the_probe_finds_alive_stays_and_holds_none_back(tmp_path):
    """Channel 3 is dead in training passes, whose statistics are the batch's, and not in eval
    mode."""
    runner = toy_runner(tmp_path, [HOOK], epochs=2)
    norm, pruner, widths = runner.model.blocks[0].bn1, pruner_of(runner), []
    kill_channels(norm, [1])
    norm.bias.data[3] = -100.0
    prune = pruner.prune

    def spy(runner, data_batch):
        norm.running_mean[3] = -1e6
        prune(runner, data_batch)
        widths.append(runner.model.blocks[0].conv1.out_channels)

    pruner.prune = spy
    runner.train()
    assert widths == [11]


def test_a_validation_within_a_window_is_not_counted(tmp_path):
    """Channel 1 is dead in training; in one pass in eval mode it is not."""
    runner = toy_runner(tmp_path, [HOOK], epochs=2)
    norm = runner.model.blocks[0].bn1
    kill_channels(norm, [1])

    class Validate(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 4:
                norm.bias.data[1] = 1.0
                runner.model.eval()(data_batch['inputs'])
                kill_channels(norm, [1])
                runner.model.train()

    runner.register_hook(Validate())
    runner.train()
    assert runner.model.blocks[0].conv1.out_channels == 11


def test_a_resumed_window_knows_how_many_samples_it_was_open_for(tmp_path):
    hook = dict(HOOK, prune=dict(interval=6, num_samples=48))
    said = []
    for more in ({}, dict(resume=True, load_from=str(tmp_path / 'epoch_1.pth'))):
        runner = toy_runner(tmp_path, [hook], epochs=2, **more)
        kill_channels(runner.model.blocks[0].bn1, [1])
        messages = log_of(runner)
        runner.train()
        said += [m for m in messages if m.startswith('prune event')]
    assert len(said) == 2 and all('dead on 48 samples' in m for m in said)


# --- ranks -------------------------------------------------------------------------------


def train_with_a_window_over_a_checkpoint(folder, resume):
    """Channel 3 is alive on rank 1 only, and only before the checkpoint."""
    more = dict(resume=True, load_from=f'{folder}/whole/epoch_1.pth') if resume else {}
    hook = dict(HOOK, prune=dict(interval=6, num_samples=64))
    work_dir = f'{folder}/{"resumed" if resume else "whole"}'
    runner = toy_runner(work_dir, [hook, dict(type='EMAHook')], epochs=2, **ON_RANKS, **more)
    norm = bare_model(runner).blocks[0].bn1
    kill_channels(norm, [1, 3])

    def revive(module, args, output):
        if module.training and runner.iter < 4:
            output[:, 3] = 1.0

    if get_rank() == 1:
        norm.register_forward_hook(revive)
    runner.train()
    return dict(bare_model(runner).named_parameters())


def test_what_one_rank_saw_before_a_checkpoint_is_known_after_a_resume(tmp_path):
    whole, resumed = (
        run_on_ranks(train_with_a_window_over_a_checkpoint, 2, tmp_path, str(tmp_path), resume)
        for resume in (False, True)
    )
    assert whole[0]['blocks.0.conv1.weight'].shape[0] == 11
    for state in (whole[1], *resumed):
        assert_same(state, whole[0])


@MODELS.register_module(force=True)
class RankRouted(ToyNet):
    """A branch that runs on pictures of rank 1 alone in training, and one that never does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            for _ in range(2)
        )
        for branch in self.branches:
            kill_channels(branch[1], [0, 1])

    def forward(self, inputs, labels=None, mode='tensor'):
        empty, given = inputs[:0], inputs[: len(inputs) if mode == 'tensor' or get_rank() else 0]
        x = (
            self.branches[0](given).sum((0, 2, 3)),
            self.branches[1](inputs if mode == 'tensor' else empty).sum((0, 2, 3)),
        )
        out = super().forward(inputs, labels, mode)
        return (out, *x) if mode == 'tensor' else dict(out, extra_loss=0 * (x[0] + x[1]).sum())


def train_routed_by_rank(folder):
    """Pictures are smaller on rank 1."""
    hook = dict(HOOK, prune=dict(interval=4, num_samples=16))
    model = dict(type='RankRouted')
    runner = toy_runner(f'{folder}/r', [hook], epochs=1, model=model, **ON_RANKS)
    dataset = runner.train_dataloader.dataset
    dataset.inputs = dataset.inputs[..., : 8 - get_rank(), :]
    runner.train()
    widths = [branch[0].out_channels for branch in bare_model(runner).branches]
    return widths, pruner_of(runner).state()['positions']


def train_with_batches_that_shrink_on_one_rank(folder):
    """From the middle on rank 1 has one picture an iteration and rank 0 four: by its own count
    it would open its window long before."""
    hook = dict(HOOK, prune=dict(interval=8, num_samples=16))
    runner = toy_runner(f'{folder}/r', [hook], epochs=2, **ON_RANKS)
    kill_channels(bare_model(runner).blocks[0].bn1, [1])

    class Shrink(Hook):
        priority = 'VERY_HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter >= 3 and get_rank() == 1:
                data_batch.update({key: x[:1] for key, x in data_batch.items()})

    runner.register_hook(Shrink())
    runner.train()
    return bare_model(runner).blocks[0].conv1.out_channels


def test_ranks_with_batches_of_other_sizes_open_a_window_together(tmp_path):
    assert run_on_ranks(train_with_batches_that_shrink_on_one_rank, 2, tmp_path, str(tmp_path)) == [
        11,
        11,
    ]


def test_a_rank_that_saw_nothing_of_a_branch_does_not_speak_for_it(tmp_path):
    (widths, positions), theirs = run_on_ranks(train_routed_by_rank, 2, tmp_path, str(tmp_path))
    assert widths == [4, 6] and positions['stem.weight'] == 64
    assert theirs == (widths, positions)  # MACs are counted on the pictures of one rank


def test_a_run_resumed_with_smaller_batches_looks_at_as_many_samples(tmp_path):
    hook = dict(HOOK, prune=dict(interval=4, num_samples=16))
    toy_runner(tmp_path / 'first', [hook], epochs=2, batch_size=16).train()
    runner = toy_runner(
        tmp_path / 'resumed',
        [hook],
        epochs=3,
        batch_size=4,
        resume=True,
        load_from=str(tmp_path / 'first/epoch_1.pth'),
    )
    messages, info = [], runner.logger.info
    runner.logger.info = lambda message, *rest: messages.append(message) or info(message, *rest)
    runner.train()
    events = [m for m in messages if 'prune event' in m]
    # it goes on two iterations before the first
    assert ['dead on 8 samples' in m for m in events] == [True] + [False] * (len(events) - 1)
    assert len(events) > 2 and all('dead on 16 samples' in m for m in events[1:])


def test_a_budget_takes_live_channels_from_no_branch_of_which_nothing_is_known(tmp_path):
    prune = dict(interval=4, num_samples=16, allow_live=True)
    hook = dict(HOOK, prune=prune, budget=dict(params=0.6))
    runner = toy_runner(tmp_path, [hook], epochs=1, model=dict(type='Routed', every=10**9))
    with torch.no_grad():  # the first to go, by their scales
        runner.model.seldom[1].weight.mul_(0.1)
    runner.train()
    assert runner.model.seldom[0].out_channels == 6
    assert runner.model.common[0].out_channels < 4  # of which two were dead
