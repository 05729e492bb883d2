"""Parameters and MACs, against torch's own counter and by hand."""

from types import SimpleNamespace

import pytest
import torch
from nets import build, cost_of, forward, random_plan, torch_macs, trace
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmpsbn.pruning import apply_plan
from mmpsbn.pruning.cost import count_positions, measure_latency, median_seconds, model_cost
from mmpsbn.pruning.forward import call_with


class Mixed(nn.Module):
    """Grouped, strided, dilated and 1d convolutions, a linear layer on a sequence.

    One layer is called three times.
    """

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2)
        self.b = nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding=2)
        self.again = nn.Conv2d(12, 12, (1, 3), padding=(0, 1))
        self.line, self.fc = nn.Conv1d(12, 5, 3), nn.Linear(5, 7)

    def forward(self, x):
        x = self.b(self.a(x))
        for _ in range(3):
            x = F.relu(self.again(x))
        return self.fc(self.line(x.flatten(2)).transpose(1, 2))


@pytest.mark.parametrize('name', ['residual', 'concat', 'fpn', 'psbn_chain'])
def test_macs_are_half_of_torchs_flops_before_and_after_pruning(name):
    model, batch = build(name)
    positions = count_positions(model, batch, forward)
    assert model_cost(model, positions).macs == torch_macs(model, batch)
    dense = model_cost(model, positions)
    apply_plan(model, random_plan(model, batch))
    pruned = model_cost(model, positions)
    assert pruned.macs == torch_macs(model, batch) < dense.macs
    assert pruned.params == sum(p.numel() for p in model.parameters()) < dense.params
    assert count_positions(model, batch, forward) == positions


def test_macs_of_other_layers_and_of_repeated_calls():
    model, batch = Mixed(), torch.randn(2, 3, 12, 12)
    cost = cost_of(model, batch)
    assert cost.macs == torch_macs(model, batch)
    assert cost.macs_of['again'] == 3 * 2 * 5 * 5 * 12 * 12 * 3
    assert cost.inputs_of == dict(a=3, b=2, again=12, line=12, fc=5)
    assert cost.params == sum(p.numel() for p in model.parameters())


class Attends(nn.Module):
    """Queries, keys and values of different numbers, lengths and widths."""

    def __init__(self):
        super().__init__()
        self.same = nn.MultiheadAttention(8, 2, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=6, vdim=10, batch_first=True)

    def forward(self, batch):
        queries, keys, values = batch
        queries = self.same(queries, key=queries[:, :2], value=queries[:, 2:4])[0]
        return self.other(queries, keys, values)[0]


def test_macs_of_attention_are_those_of_its_projections():
    model = Attends()
    batch = [torch.randn(2, length, width) for length, width in ((5, 8), (7, 6), (7, 10))]
    model.requires_grad_(True).train()  # in eval mode torch may run a kernel it does not count
    with FlopCounterMode(display=False) as counter:
        model(batch)
    flops = counter.get_flop_counts()['Global']
    projections = sum(n for op, n in flops.items() if 'bmm' not in str(op))
    cost = cost_of(model, batch)
    assert cost.macs == projections // 2
    assert cost.macs_of['same'] == 2 * (5 + 2 + 2) * 8 * 8
    assert cost.macs_of['other'] == 2 * (5 * 8 + 7 * 6 + 7 * 10) * 8
    assert cost.weights_of['other'] == 8 * (8 + 6 + 10)
    assert cost.macs_of['same.out_proj'] == 2 * 5 * 8 * 8


def test_macs_of_transposed_convolutions_are_counted_at_their_input():
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, output_padding=1)
    model, batch = nn.Sequential(nn.Conv2d(3, 6, 1), up), torch.randn(2, 3, 5, 7)
    cost = cost_of(model, batch)
    assert cost.macs == torch_macs(model, batch)
    assert cost.macs_of['1'] == 2 * 5 * 7 * 6 * 2 * 9
    assert cost.inputs_of == {'0': 3, '1': 6} and cost.weights_of == {'0': 18, '1': 108}
    by_name = count_positions(up, dict(input=torch.ones(2, 6, 5, 7)), call_with)
    assert model_cost(up, by_name).macs_of == {'': cost.macs_of['1']}


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x):
        q, k, v = F.linear(x, self.in_proj_weight).chunk(3, -1)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v))


def test_of_attention_that_computes_in_another_way_only_its_layers_are_counted():
    cost = cost_of(nn.Sequential(SelfAttention(8, 1)), torch.randn(2, 5, 8))
    assert cost.macs_of == {'0.out_proj': 2 * 5 * 8 * 8}


def test_attention_over_nested_tensors_is_counted():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(2, 8)])
    batch = dict(query=x, key=x, value=x, need_weights=False)
    macs_of = model_cost(attention, count_positions(attention, batch, call_with)).macs_of
    assert macs_of == {'': 5 * 3 * 8 * 8, 'out_proj': 5 * 8 * 8}


def test_layers_that_return_lists_are_counted_and_sparse_ones_are_not():
    class Twice(nn.Linear):
        def forward(self, x):
            return [super().forward(x), super().forward(x[:1])]

    class Sparse(nn.Linear):
        def forward(self, x):
            return SimpleNamespace(features=super().forward(x[0]))

    model = nn.Sequential(nn.Conv2d(3, 6, 1), Twice(5, 2), Sparse(2, 4))
    batch = torch.ones(2, 3, 5, 5)
    cost = model_cost(model, count_positions(model, batch, lambda m, x: m(x).features))
    assert cost.macs_of == {'0': 50 * 18, '1': 3 * 30 * 10, '2': 0}


def test_compiled_layers_are_not_counted_and_lazy_ones_get_their_shape():
    compiled = nn.Sequential(nn.Conv2d(3, 4, 1), torch.jit.script(nn.Conv2d(4, 5, 1)))
    assert set(cost_of(compiled, torch.randn(1, 3, 4, 4)).macs_of) == {'0'}
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    assert cost_of(lazy, torch.randn(2, 3, 5, 5)).macs_of == {'0': 2 * 9 * 4 * 27, '2': 2 * 3 * 36}


def test_counting_leaves_no_hook_no_mode_and_no_statistics_behind():
    model, batch = build('chain')
    nn.utils.parametrizations.spectral_norm(model.classifier[2])
    before = {n: b.clone() for n, b in model.named_buffers()}
    cost_of(model, batch)
    trace(model, batch)
    with pytest.raises(RuntimeError):
        count_positions(model, batch[:, :2], forward)
    assert all(m.training and not m._forward_hooks for m in model.modules())
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize('device', ['cpu', 'cpu:0'])
def test_a_model_is_measured_where_it_lives_not_on_a_copy(device):
    model, called = nn.Linear(3, 2), []

    def forward_fn(model, batch):
        called.append(model)
        return model(batch)

    assert measure_latency(model, torch.randn(1, 3), forward_fn, device=device) > 0
    assert all(one is model for one in called)


def test_the_median_is_of_the_runs_after_two_that_warm_up():
    seconds = iter([0, 50, 100, 190, 200, 203, 210, 211, 220, 222])
    runs = []
    median = median_seconds(lambda: runs.append(1), repeats=3, clock=lambda: next(seconds))
    assert median == 2 and len(runs) == 5
