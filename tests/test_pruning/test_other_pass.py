"""What a second forward pass does with the channels that a first one lets go."""

import torch
from nets import forward
from torch import nn
from torch.nn import functional as F

from mmpsbn.pruning import trace_channel_graph
from mmpsbn.pruning.other_pass import trace_other_pass


class TwoPasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


def other_pass(model, forward_b):
    """Why ``a`` and ``b`` must stay, if ``forward_b`` runs on what ``b`` reads too."""
    x = torch.randn(2, 4, 3, 3)
    groups = trace_channel_graph(model, x, forward).groups
    assert set(groups) == {'a', 'b', 'c'}
    return trace_other_pass(model, groups, lambda: forward_b(F.relu(model.a(x))))


def test_groups_that_one_layer_reads_hold_each_other():
    model = TwoPasses()
    whole, called = other_pass(model, lambda x: model.d(F.relu(model.b(x))).sum())
    assert whole == dict(b='goes with d.weight', c='goes with b.weight')
    assert called == {'a', 'b', 'd'}


def test_each_hold_has_its_reason():
    model = TwoPasses()
    assert other_pass(model, model.b)[0] == dict(b='an output of the model: nobody reads it')
    assert other_pass(model, lambda x: model.b(x) + x.mean())[0].keys() == {'a', 'b'}
    assert other_pass(model, lambda x: model.head(x))[0] == dict(a='goes with head.weight')
    assert other_pass(model, lambda x: x.numpy())[0] == dict(
        a='an operation out of sight of PyTorch'
    )


def test_nothing_is_held_that_the_same_layers_read():
    model = TwoPasses()
    whole, called = other_pass(model, lambda x: model.d(F.relu(model.c(F.relu(model.b(x))))).sum())
    assert whole == {} and 'head' not in called


def test_tracing_a_join_with_no_rows_at_all():
    """What pads a batch that is full already, as DDQ DETR does with its queries."""

    def padded(model, x):
        return model.d(F.relu(model.c(torch.cat([F.relu(model.b(x)), x.new_zeros(0, 4, 3, 3)]))))

    graph = trace_channel_graph(TwoPasses(), torch.randn(2, 4, 3, 3), padded)
    assert 'c' in graph.groups
