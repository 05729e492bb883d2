"""Training goes on after surgery as if the channels had been masked, with any optimizer.

The channels that go are live ones: their state and gradients are not zero. AMP and clipping are in
test_engine/test_training_matrix.
"""

import pytest
import torch
from nets import build, generator, loss_of, random_plan
from torch import nn
from twin import assert_equals_twin, assert_state_equals_twin, mask_

from mmpsbn.pruning import apply_plan

CLOSE = dict(rtol=1e-9, atol=1e-12)
TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
optim = torch.optim
OPTIMIZERS = {
    'sgd': lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    'sgd-nesterov': lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    'adam': lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    'adam-foreach': lambda p: optim.Adam(p, lr=0.01, foreach=True),
    'adamw': lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    'adamw-amsgrad': lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    'rmsprop': lambda p: optim.RMSprop(p, lr=0.01),
    # its variance is a difference of squares: eps above the rounding
    'rmsprop-centered': lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9, eps=1e-5),
    'adagrad': lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    'adadelta': lambda p: optim.Adadelta(p, lr=1.0),
    'nadam': lambda p: optim.NAdam(p, lr=0.01),
}
if TORCH >= (2, 4):  # before, on CUDA alone
    OPTIMIZERS['adam-fused'] = lambda p: optim.Adam(p, lr=0.01, fused=True)


def batches(count, seed=3):
    return torch.randn(count, 3, 3, 8, 8, dtype=torch.float64, generator=generator(seed))


def mild_loss_of(outputs):
    return loss_of(outputs) / 1000  # else rounding grows a thousandfold within a few steps


class Training:
    """A net, its optimizers and a step; two of them start out bit-equal."""

    def __init__(self, net='residual', optimizers_of=None):
        self.model, self.batch = build(net)
        if net == 'fpn':  # a norm follows: its gradient is rounding, which Adam would blow up
            self.model.tower.bias.requires_grad_(False)
        make = optimizers_of or (lambda model: [OPTIMIZERS['sgd'](model.parameters())])
        self.optimizers = make(self.model)
        self.forward = self.model

    def step(self, batch):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        mild_loss_of(self.forward(batch)).backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def run(self, data):
        for batch in data:
            self.step(batch)


def pruned_and_twin(*args, before=3, after=4, training=Training, **kwargs):
    """Both after training, surgery or masking in step ``before``, and training on."""
    pruned, twin = training(*args, **kwargs), training(*args, **kwargs)
    data = batches(before + after)
    for run in (pruned, twin):
        run.run(data[:before])
    plan = random_plan(pruned.model, pruned.batch)
    apply_plan(pruned.model, plan, pruned.optimizers)
    mask_(twin.model, plan, twin.optimizers)
    for run in (pruned, twin):
        run.run(data[before:])
    return pruned, twin, plan


def assert_equal_training(pruned, twin, plan):
    assert len(plan.kept) > 3
    assert_equals_twin(pruned.model, twin.model, plan, **CLOSE)
    for ours, theirs in zip(pruned.optimizers, twin.optimizers):
        assert_state_equals_twin(ours, theirs, pruned.model, twin.model, plan, **CLOSE)


@pytest.mark.parametrize('net', ['psbn_residual', 'concat', 'fpn'])
@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_every_optimizer(kind, net):
    runs = pruned_and_twin(net, lambda model: [OPTIMIZERS[kind](model.parameters())])
    assert_equal_training(*runs)


def test_several_param_groups_of_two_optimizers():
    def two(model):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        scales = [p for m in norms for p in m.parameters()]
        rest = [p for p in model.parameters() if not any(p is s for s in scales)]
        groups = [dict(params=scales, weight_decay=0.0), dict(params=rest[:2], lr=0.001)]
        return [
            optim.AdamW(groups, lr=0.01, weight_decay=0.1),
            OPTIMIZERS['sgd'](rest[2:]),
        ]

    assert_equal_training(*pruned_and_twin(optimizers_of=two))


class Accumulating(Training):
    """Steps every fourth batch."""

    seen = 0

    def step(self, batch):
        (mild_loss_of(self.forward(batch)) / 4).backward()
        self.seen += 1
        if self.seen % 4 == 0:
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()


@pytest.mark.parametrize('before', [4, 6])
def test_an_event_amid_accumulated_gradients(before):
    runs = pruned_and_twin(training=Accumulating, before=before, after=13 - before)
    assert any(p.grad is not None for p in runs[0].model.parameters())  # one batch is pending
    assert_equal_training(*runs)


@pytest.mark.skipif(TORCH < (2, 2), reason='torch.compile switches the hooks of optimizers off')
def test_a_compiled_model_is_compiled_anew():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend('aot_eager')(graph, inputs)

    class Compiled(Training):
        def __init__(self, *args):
            super().__init__(*args)
            self.forward = torch.compile(self.model, backend=backend)

    runs = pruned_and_twin(training=Compiled)
    assert len(graphs) >= 2  # the dense one, which the twin may share, and the pruned one
    assert_equal_training(*runs)
