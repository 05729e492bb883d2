"""What runs in training only: groups that it holds stay whole, the others are pruned."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from ranks import run_on_ranks
from runs import STREAM, demp, inner_widths, killing, slow, train
from snapshots import assert_same
from torch import nn
from torch.nn import functional as F
from toy import ToyData, ToyNet, ToyPreprocessor, kill_channels

from mmpsbn.engine.demp import trace_coverage
from mmpsbn.engine.demp.trace_coverage import held_by_losses
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.pruning import trace_channel_graph


@MODELS.register_module(force=True)
class AuxNet(ToyNet):
    """Has a head that runs in training only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.aux = nn.Linear(8, 4)

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'loss':
            x = F.relu(self.norm(self.stem(inputs)))
            aux = F.cross_entropy(self.aux(self.blocks[0](x).mean((2, 3))), labels)
            return dict(super().forward(inputs, labels, mode), aux_loss=aux)
        return super().forward(inputs, labels, mode)


@MODELS.register_module(force=True)
class IdleBranchNet(ToyNet):
    """Has a branch, on the first block's inner channels, that does not run in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branch = nn.Conv2d(12, 2, 1)

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode == 'loss':
            return out
        block = self.blocks[0]
        x = F.relu(self.norm(self.stem(inputs)))
        return out, self.branch(F.relu(block.bn1(block.conv1(x))))


def inner(block, x):
    return F.relu(block.bn1(block.conv1(x)))


class TrainingNet(ToyNet):
    """Has layers for its losses, and notes how often these were computed."""

    def __init__(self, losses, **layers):
        super().__init__()
        self.losses = losses
        self.extra = nn.ModuleDict(layers)
        self.register_buffer('passes', torch.zeros(()))

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode != 'loss':
            return out
        self.passes += 1
        stem = F.relu(self.norm(self.stem(inputs)))
        return out | dict(extra_loss=self.losses(self, stem, labels))


def embedded_labels(model, stem, labels):
    return model.extra['embedding'](labels).mean()


def a_reader_of_an_inner_layer(model, stem, labels):
    return model.extra['linear'](inner(model.blocks[0], stem).mean((2, 3))).mean()


def a_loss_without_a_layer(model, stem, labels):
    return embedded_labels(model, stem, labels) + inner(model.blocks[0], stem).mean()


def a_sum_of_two_layers(model, stem, labels):
    both = inner(model.blocks[0], stem) + inner(model.blocks[1], stem)
    return model.extra['conv'](both).mean()


def a_scale_of_two_layers(model, stem, labels):
    scaled = [model.extra['norm'](inner(block, stem)) for block in model.blocks]
    return (embedded_labels(model, stem, labels), scaled)[0]


def features_of_a_teacher_out_of_the_model(model, stem, labels):
    theirs = torch.ones(12, 8, 8)
    return F.mse_loss(inner(model.blocks[0], stem), theirs.expand(len(stem), -1, -1, -1))


def a_mask_of_a_fixed_width(model, stem, labels):
    return (inner(model.blocks[1], stem) * torch.bernoulli(torch.full((12, 1, 1), 0.5))).mean()


LOSSES = [
    (features_of_a_teacher_out_of_the_model, dict(), [0]),
    (a_mask_of_a_fixed_width, dict(), [1]),
    (embedded_labels, dict(embedding=nn.Embedding(4, 12)), []),
    (a_reader_of_an_inner_layer, dict(linear=nn.Linear(12, 1)), [0]),
    (a_loss_without_a_layer, dict(embedding=nn.Embedding(4, 12)), [0]),
    (a_sum_of_two_layers, dict(conv=nn.Conv2d(12, 1, 1)), [0, 1]),
    (
        a_scale_of_two_layers,
        dict(norm=nn.BatchNorm2d(12), embedding=nn.Embedding(4, 12)),
        [0, 1],
    ),
]


@pytest.mark.parametrize('losses, layers, whole', LOSSES, ids=lambda x: getattr(x, '__name__', ''))
def test_a_group_is_left_whole_where_the_losses_hold_its_channels(tmp_path, losses, layers, whole):
    torch.manual_seed(0)
    model = TrainingNet(losses, **copy.deepcopy(layers))
    _, messages = train(tmp_path, [demp()], kill_everywhere, model=model, optim_wrapper=slow())
    assert inner_widths(model) == [12 if k in whole else 10 for k in (0, 1)]
    assert model.stem.out_channels == 7
    said = [m for m in messages if 'is left whole' in m and 'training pass' in m]
    assert sorted(m.split()[0] for m in said) == [f'blocks.{k}.conv1' for k in whole]


def kill_everywhere(runner):
    killing([1, 3], [1, 3])(runner)
    for name in STREAM:
        kill_channels(runner.model.get_submodule(name), [2])


def test_a_head_for_training_keeps_the_stream_that_it_reads_whole(tmp_path):
    runner, messages = train(tmp_path, [demp()], kill_everywhere, model=dict(type='AuxNet'))
    assert runner.model.stem.out_channels == 8 and inner_widths(runner.model) == [10, 10]
    assert any(m.startswith('stem is left whole: goes with aux.weight') for m in messages)


def test_a_reader_that_does_not_run_in_training_keeps_its_group_whole(tmp_path):
    model = dict(type='IdleBranchNet')
    runner, messages = train(tmp_path, [demp()], killing([1, 3], [1, 3]), model=model)
    assert inner_widths(runner.model) == [12, 10]
    assert any('left whole: branch reads it and does not run in training' in m for m in messages)


def test_what_the_trace_does_not_reach_is_named():
    graph = trace_channel_graph(AuxNet(), torch.randn(1, 3, 8, 8), forward_tensors)
    assert graph.skipped['aux'] == 'not reached by the trace'


class Chain(BaseModel):
    """Two convolutions, whose only group a head for training reads."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.aux = nn.Conv2d(6, 1, 1)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = F.relu(self.conv1(inputs))
        return dict(loss=self.aux(x).mean()) if mode == 'loss' else self.conv2(x)


class OwnSteps(Chain):
    """Trains in a way of its own, that nobody can trace."""

    def train_step(self, data, optim_wrapper):
        self.aux(F.relu(self.conv1(data['inputs'])))
        return dict(loss=torch.zeros(()))

    def forward(self, inputs, mode='tensor', **kwargs):
        if mode == 'loss':
            raise NotImplementedError('no losses')
        return super().forward(inputs)


class OtherLosses(OwnSteps):
    """Its losses are not what it trains with."""

    def forward(self, inputs, mode='tensor', **kwargs):
        out = Chain.forward(self, inputs)
        return dict(loss=out.mean()) if mode == 'loss' else out


class AsksForItsWidth(ToyNet):
    """Its losses fail on a narrower model, and nothing that a trace sees says why."""

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'loss' and self.stem.out_channels != 8:
            raise RuntimeError('8 channels, please')
        return super().forward(inputs, labels, mode)


@pytest.mark.parametrize(
    'model, message',
    [
        (
            AsksForItsWidth,
            r'fail when channels are gone \(RuntimeError: 8 channels, please\)',
        ),
        (Chain, r'^Chain has no group of channels that can be pruned: conv1 \('),
        (OwnSteps, r'^aux run in training but not .* traced \(NotImplementedError: no losses\)'),
        (OtherLosses, '^aux run in training but not .* or does not run them: which channels'),
    ],
)
def test_a_run_is_refused_after_an_iteration_where_nothing_is_left(tmp_path, model, message):
    iterations = []

    class Count(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            iterations.append(runner.iter)

    with pytest.raises(ValueError, match=message):
        train(tmp_path, [demp(), Count()], model=model(), optim_wrapper=slow())
    assert not iterations


class Mixup(ToyPreprocessor):
    """Draws from NumPy, as mmpretrain's does, and from ``random``, as MMDetection's do."""

    def forward(self, data, training=False):
        if not training:
            return data
        return dict(data, inputs=data['inputs'] * float(np.random.beta(1, 1)) * random.random())


def losses_with_a_memory(model, stem, labels):
    """As DynamicRoIHead has, and a tensor that torch does not copy."""
    loss = embedded_labels(model, stem, labels)
    model.history.append(loss.item())
    model.last = [dict(loss=loss * 2)]
    return loss


def random_states():
    return torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype('int64'))


def test_a_look_at_the_losses_leaves_no_trace_in_model_batch_and_random_numbers():
    model = TrainingNet(losses_with_a_memory, embedding=nn.Embedding(4, 12)).train()
    model.data_preprocessor, model.history = Mixup(), []
    model.blocks[0].bn1.eval()
    left = []
    model.blocks[0].conv1.register_forward_hook(lambda module, args, out: left.append(out))
    groups = trace_channel_graph(model, torch.randn(1, 3, 8, 8), forward_tensors).groups
    data = ToyData()
    batch = dict(inputs=data.inputs[:8], labels=data.labels[:8])
    model(**batch, mode='loss')
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy((model.state_dict(), batch, random_states()))
    kept = random.getstate(), list(model.history), model.last
    left.clear()
    assert held_by_losses(model, batch, groups, ['extra.embedding']) == {}
    assert trace_coverage._failure_of_losses(model, batch, groups) is None
    assert not left
    assert_same((model.state_dict(), batch, random_states()), before)
    assert [module.training for module in model.modules()] == modes
    assert kept == (random.getstate(), model.history, model.last) and len(model.history) == 1


def look_on_one_rank():
    """Only the second rank's losses run the head, or fail."""
    torch.manual_seed(0)
    model, batch = AuxNet(), dict(inputs=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 1]))
    groups = trace_channel_graph(model, batch['inputs'], forward_tensors).groups
    if dist.get_rank() == 0:
        model.forward = lambda inputs, labels, mode: dict(loss=ToyNet.forward(model, inputs).sum())
    held = held_by_losses(model, batch, groups, ['aux'])
    if dist.get_rank() == 1:
        del batch['labels']
    try:
        held_by_losses(model, batch, groups, ['aux'])
    except ValueError as error:
        return list(held), str(error)


def test_ranks_leave_the_same_whole_and_fail_together(tmp_path):
    (ours, why), (theirs, other) = run_on_ranks(look_on_one_rank, 2, tmp_path)
    assert ours == theirs == ['stem']
    assert 'aux run in training but not' in why and 'aux run in training but not' in other
