"""Layers that begin to run in the course of the training, as an auxiliary head with a late loss."""

import pytest
import torch
from ranks import ON_RANKS, run_on_ranks
from runs import assert_resumes, demp, inner_widths, killing, slow, train
from test_training_only import inner
from torch import nn
from torch.nn import functional as F
from toy import ToyNet
from toy_validation import validation

from mmpsbn.engine.runner_parts import bare_model

SHORT = demp(interval=4, num_samples=16)  # windows of two iterations
LONG = demp(interval=4, num_samples=99)
KILL = killing([1, 3], [1, 3])


class LateNet(ToyNet):
    """Has a head on the first block's inner channels in some of the training's iterations, counted
    from 1; in some it cannot be traced."""

    def __init__(self, iterations, untraceable=()):
        super().__init__()
        self.aux = nn.Conv2d(12, 1, 1)
        self.iterations, self.untraceable = iterations, untraceable
        self.register_buffer('count', torch.zeros((), dtype=torch.long))

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


def arguments(iterations, *, kind=LateNet, untraceable=()):
    torch.manual_seed(0)
    return dict(model=kind(iterations, untraceable), optim_wrapper=slow(), epochs=2)


@pytest.mark.parametrize('hook', [SHORT, LONG], ids=['short', 'long'])
@pytest.mark.parametrize('iterations', [range(3, 99), (3,), (4, 5, 8)], ids=str)
def test_what_a_late_layer_reads_is_left_whole_at_all_events(tmp_path, hook, iterations):
    runner, messages = train(tmp_path, [hook], KILL, **arguments(iterations))
    assert inner_widths(runner.model) == [12, 10]
    said = [m for m in messages if m.startswith('blocks.0.conv1 is left whole: goes with aux')]
    assert len(said) == 1


@pytest.mark.parametrize(
    'iterations, untraceable, skipped, widths',
    [((3,), (3,), [4, 8], [12, 12]), ((3, 4, 7), (3, 4), [4], [12, 10])],
)
def test_events_are_skipped_until_a_late_layer_can_be_traced(
    tmp_path, iterations, untraceable, skipped, widths
):
    late = arguments(iterations, untraceable=untraceable)
    runner, messages = train(tmp_path, [SHORT], KILL, **late)
    said = [m for m in messages if 'prune event is skipped' in m]
    assert [m.split(':')[0] for m in said] == [f'iteration {k}' for k in skipped]
    assert all('aux run in training but not in model(inputs' in m for m in said)
    assert all('NotImplementedError: a kernel of its own' in m for m in said)
    assert inner_widths(runner.model) == widths


@pytest.mark.parametrize('untraceable, widths', [((), [12, 10]), ((4,), [12, 12])])
def test_a_resumed_run_knows_which_late_layers_ran(tmp_path, untraceable, widths):
    hooks = [demp(num_samples=32)]  # its window is open at the end of iteration 4

    def late():
        return arguments((4,), untraceable=untraceable)

    whole = assert_resumes(tmp_path, hooks, KILL, at='epoch_1.pth', fresh=late)
    assert inner_widths(whole.model) == widths


@pytest.mark.parametrize('hook', [SHORT, LONG], ids=['short', 'long'])
def test_an_event_removes_nothing_where_late_layers_hold_everything(tmp_path, hook):
    runner, messages = train(tmp_path, [hook], KILL, **arguments(range(3, 99), kind=HoldsAll))
    assert inner_widths(runner.model) == [12, 12] and runner.model.stem.out_channels == 8
    assert sum('is left whole' in m for m in messages) == 3


def test_a_layer_that_runs_in_a_validation_alone_is_none_of_the_losses(tmp_path):
    class Validated(ToyNet):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(4, 4)

        def val_step(self, data):
            return [self.extra(self(data['inputs']))]

    hooks, kwargs = [demp(num_samples=99)], dict(model=Validated(), optim_wrapper=slow())
    runner, messages = train(tmp_path, hooks, killing([1, 3]), **kwargs, **validation())
    assert inner_widths(runner.model) == [10, 12]
    assert not [m for m in messages if 'skipped' in m]


def train_on_ranks(work_dir):
    """The head runs late, and on the second rank alone."""
    iterations = range(3, 99) if torch.distributed.get_rank() else ()
    wrapper = dict(ON_RANKS['cfg']['model_wrapper_cfg'], find_unused_parameters=True)
    on_ranks = dict(ON_RANKS, cfg=dict(model_wrapper_cfg=wrapper))
    runner, _ = train(work_dir, [SHORT], KILL, **arguments(iterations), **on_ranks)
    return inner_widths(bare_model(runner))


@pytest.mark.slow
def test_all_ranks_leave_whole_what_a_late_layer_of_one_reads(tmp_path):
    assert run_on_ranks(train_on_ranks, 2, tmp_path, str(tmp_path)) == [[12, 10]] * 2
