"""Layers that begin to run in the course of the training, as an auxiliary head with a late loss."""

import pytest
import torch
from ranks import ON_RANKS, run_on_ranks
from snapshots import assert_same
from test_limits import DEMP, inner_widths, messages_of
from test_training_only import inner, slow
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels, toy_runner
from toy_validation import validation

from mmpsbn.engine.runner_parts import bare_model

SHORT = dict(DEMP, prune=dict(interval=4, num_samples=16))  # windows of two iterations
LONG = dict(DEMP, prune=dict(interval=4, num_samples=99))


class LateNet(ToyNet):
    """Has a head on the first block's inner channels in some of the training's iterations, counted
    from 1; in some it cannot be traced."""

    def __init__(self, iterations, untraceable=()):
        super().__init__()
        self.aux = nn.Conv2d(12, 1, 1)
        self.iterations, self.untraceable = iterations, untraceable
        self.register_buffer('count', torch.zeros((), dtype=torch.long))
        for block in self.blocks:
            kill_channels(block.bn1, [1, 3])

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode != 'loss':
            return out
        self.count += torch.is_grad_enabled()
        if int(self.count) not in self.iterations:
            return out
        if int(self.count) in self.untraceable and not torch.is_grad_enabled():
            raise NotImplementedError('a kernel of its own')
        return out | dict(extra_loss=self.extra_loss(F.relu(self.norm(self.stem(inputs)))))

    def extra_loss(self, stem):
        return self.aux(inner(self.blocks[0], stem)).mean()


class HoldsAll(LateNet):
    def extra_loss(self, stem):
        held = [stem, *(inner(block, stem) for block in self.blocks)]
        return self.aux(held[1]).mean() + sum(x.square().mean() for x in held)


def train(folder, hook, iterations, *, kind=LateNet, untraceable=(), epochs=2, **kwargs):
    """The trained model and what the run has said; 4 iterations an epoch."""
    torch.manual_seed(0)
    model = kind(iterations, untraceable)
    runner = toy_runner(folder, [hook], model=model, optim_wrapper=slow(), epochs=epochs, **kwargs)
    messages = messages_of(runner)
    runner.train()
    return bare_model(runner), messages


@pytest.mark.parametrize('hook', [SHORT, LONG], ids=['short', 'long'])
@pytest.mark.parametrize('iterations', [range(3, 99), (3,), (4, 5, 8)], ids=str)
def test_what_a_late_layer_reads_is_left_whole_at_all_events(tmp_path, hook, iterations):
    model, messages = train(tmp_path, hook, iterations)
    assert inner_widths(model) == [12, 10]
    said = [m for m in messages if m.startswith('blocks.0.conv1 is left whole: goes with aux')]
    assert len(said) == 1


@pytest.mark.parametrize(
    'iterations, untraceable, skipped, widths',
    [((3,), (3,), [4, 8], [12, 12]), ((3, 4, 7), (3, 4), [4], [12, 10])],
)
def test_events_are_skipped_until_a_late_layer_can_be_traced(
    tmp_path, iterations, untraceable, skipped, widths
):
    model, messages = train(tmp_path, SHORT, iterations, untraceable=untraceable)
    said = [m for m in messages if 'prune event is skipped' in m]
    assert [m.split(':')[0] for m in said] == [f'iteration {k}' for k in skipped]
    assert all('aux run in training but not in model(inputs' in m for m in said)
    assert all('NotImplementedError: a kernel of its own' in m for m in said)
    assert inner_widths(model) == widths


@pytest.mark.parametrize('untraceable, widths', [((), [12, 10]), ((4,), [12, 12])])
def test_a_resumed_run_knows_which_late_layers_ran(tmp_path, untraceable, widths):
    hook = dict(DEMP, prune=dict(interval=6, num_samples=32))  # its window is open at the end of 4
    arguments = dict(iterations=(4,), untraceable=untraceable)
    whole, _ = train(tmp_path / 'whole', hook, **arguments)
    arguments.update(resume=True, load_from=str(tmp_path / 'whole/epoch_1.pth'))
    resumed, _ = train(tmp_path / 'resumed', hook, **arguments)
    assert inner_widths(whole) == widths
    assert_same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize('hook', [SHORT, LONG], ids=['short', 'long'])
def test_an_event_removes_nothing_where_late_layers_hold_everything(tmp_path, hook):
    model, messages = train(tmp_path, hook, range(3, 99), kind=HoldsAll)
    assert inner_widths(model) == [12, 12] and model.stem.out_channels == 8
    assert sum('is left whole' in m for m in messages) == 3


def test_a_layer_that_runs_in_a_validation_alone_is_none_of_the_losses(tmp_path):
    class Validated(ToyNet):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(4, 4)

        def val_step(self, data):
            return [self.extra(self(data['inputs']))]

    model = Validated()
    kill_channels(model.blocks[0].bn1, [1, 3])
    hook = dict(DEMP, prune=dict(interval=6, num_samples=99))
    runner = toy_runner(tmp_path, [hook], model=model, optim_wrapper=slow(), **validation())
    messages = messages_of(runner)
    runner.train()
    assert inner_widths(model) == [10, 12] and not [m for m in messages if 'skipped' in m]


def train_on_ranks(work_dir):
    """The head runs late, and on the second rank alone."""
    iterations = range(3, 99) if torch.distributed.get_rank() else ()
    wrapper = dict(ON_RANKS['cfg']['model_wrapper_cfg'], find_unused_parameters=True)
    on_ranks = dict(ON_RANKS, cfg=dict(model_wrapper_cfg=wrapper))
    return inner_widths(train(work_dir, SHORT, iterations, **on_ranks)[0])


def test_all_ranks_leave_whole_what_a_late_layer_of_one_reads(tmp_path):
    assert run_on_ranks(train_on_ranks, 2, tmp_path, str(tmp_path)) == [[12, 10]] * 2
