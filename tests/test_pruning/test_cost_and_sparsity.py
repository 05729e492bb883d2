"""MACs against torch's own counter; collapsed filters in numbers and in FLOPs."""

import math
from types import SimpleNamespace

import pytest
import torch
from nets import build, forward, random_plan, trace
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from toy import kill_channels

from mmpsbn.layers import psBN2d, psGN
from mmpsbn.pruning import (
    ActivationWindow,
    Limits,
    apply_plan,
    count_channels,
    count_positions,
    idle_shares,
    model_cost,
    prune_channels,
    removable_channels,
    scale_layers,
    scales_clamped,
    take_census,
)
from mmpsbn.pruning.forward import call_with


def cost_of(model, batch):
    return model_cost(model, count_positions(model, batch, forward))


def torch_macs(model, batch):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(batch)
    return counter.get_total_flops() // 2


class Mixed(nn.Module):
    """Grouped, strided, dilated and 1d convolutions, a linear layer on a sequence.

    One layer is called three times.
    """

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding=2),
        )
        self.again = nn.Conv2d(12, 12, (1, 3), padding=(0, 1))
        self.line, self.fc = nn.Conv1d(12, 5, 3), nn.Linear(5, 7)

    def forward(self, x):
        x = self.b(self.a(x))
        for _ in range(3):
            x = F.relu(self.again(x))
        return self.fc(self.line(x.flatten(2)).transpose(1, 2))


@pytest.mark.parametrize('name', ['chain', 'residual', 'concat', 'fpn', 'psbn_chain'])
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


def test_a_compiled_layer_is_not_counted():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), torch.jit.script(nn.Conv2d(4, 5, 1)))
    assert set(cost_of(model, torch.randn(1, 3, 4, 4)).macs_of) == {'0'}


def test_layers_without_a_shape_yet_get_it():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    assert cost_of(model, torch.randn(2, 3, 5, 5)).macs_of == {'0': 2 * 9 * 4 * 27, '2': 2 * 3 * 36}


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


# ---------------------------------------------------------------- collapsed filters
def count_collapsed(model, threshold=1e-3):
    return count_channels(take_census(model), 'collapsed', Limits(gamma=threshold, eps=0.0))


def test_counts_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 3, 1),
        psBN2d(3),
        nn.BatchNorm2d(3, affine=False),
        psGN(3, 1),
        nn.InstanceNorm2d(3, affine=True),
        nn.LayerNorm(3),
        nn.BatchNorm1d(2),
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0, 9e-4, -9e-4, 1e-3]))
        model[3].weight.copy_(torch.tensor([1, math.nan, 0]))
        model[5].weight.copy_(torch.tensor([math.inf, 1, -math.inf]))
        model[6].weight.zero_()
    counts = count_collapsed(model)
    assert counts.by_layer == {'1': (3, 4), '3': (1, 3), '5': (0, 3), '6': (3, 3), '8': (0, 2)}
    assert counts.total == (7, 15)
    assert count_collapsed(model, threshold=10.0).total == (12, 15)
    assert set(scale_layers(model)) == set(counts.by_layer)


def flops_sparsity(model, batch):
    cost = cost_of(model, batch)
    shares = idle_shares(count_collapsed(model).masks, trace(model, batch), cost)
    assert set(shares) == set(cost.macs_of)
    return sum(cost.macs_of[name] * share for name, share in shares.items()) / cost.macs


def weight_sparsity(model, batch):
    cost = cost_of(model, batch)
    shares = idle_shares(count_collapsed(model).masks, trace(model, batch), cost)
    return sum(cost.weights_of[n] * shares[n] for n in shares) / sum(cost.weights_of.values())


def weights_of(model):
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    'name, dead',
    [
        ('chain', {'features.1': [0, 3], 'features.5': [1, 2, 5]}),
        ('chain', {'features.1': [0, 1, 2, 3, 4]}),
        ('psbn_chain', {'features.1': [4], 'features.5': [0, 2]}),
        ('residual', {'blocks.0.bn1': [0, 1, 7], 'blocks.1.bn1': [11]}),
        ('concat', {'left.1': [0], 'right.1': [2, 3], 'norm': [0, 7, 8]}),
        (
            'fpn',
            {
                'stage1.1': [0, 5],
                'stage2.1': [3],
                'tower_norms.0': [1, 2, 8],
                'tower_norms.1': [2, 8],
            },
        ),
    ],
)
def test_flops_sparsity_is_what_removing_the_collapsed_filters_saves(name, dead):
    model, batch = build(name)
    with torch.no_grad():
        for p in model.parameters():  # no collapsed channel by chance
            p.copy_(torch.where(p.abs() < 0.05, torch.full_like(p, 0.1), p))
    for layer, channels in dead.items():
        kill_channels(model.get_submodule(layer), channels)
    claimed, weights_claimed = flops_sparsity(model, batch), weight_sparsity(model, batch)
    dense, dense_weights = torch_macs(model, batch), weights_of(model)
    graph = trace(model, batch)
    window = ActivationWindow(model, graph.groups, in_training_only=False)
    model.eval()(batch)
    collapsed = {}
    for key, group in graph.groups.items():
        hits = [
            set(dead.get(norm, ()))
            for m in group.writers
            for norm in graph.norm_of.get(m.layer, ['none'])
        ]
        collapsed[key] = set.intersection(*hits)
    masks = {
        key: torch.tensor([c not in collapsed[key] for c in range(len(score))])
        for key, score in window.scores().items()
    }
    assert all((score[~masks[key]] == 0).all() for key, score in window.scores().items())
    window.close()
    result = prune_channels(
        model, graph.groups, masks, batch=batch, forward_fn=forward, tolerance=1e-12
    )
    assert sum(result.channels_removed.values()) == sum(map(len, collapsed.values())) > 0
    assert claimed == pytest.approx(1 - torch_macs(model, batch) / dense, abs=1e-12)
    weights_left = weights_of(model) / dense_weights
    assert weights_claimed == pytest.approx(1 - weights_left, abs=1e-12)
    assert flops_sparsity(model, batch) == 0


def test_flops_sparsity_by_hand_on_a_residual_stream():
    """When a stream channel counts as gone.

    For its readers where all of its writers have collapsed, for a writer where its own norm has.
    """
    model, batch = build('residual')
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.where(p.abs() < 0.05, torch.full_like(p, 0.1), p))
        for layer in (model.norm, model.blocks[0].bn2, model.blocks[1].bn2):
            layer.weight[2] = 0
        model.norm.weight[5] = 0
    macs = cost_of(model, batch).macs_of
    left = {
        'stem': 6 / 8,
        'blocks.0.conv1': 7 / 8,
        'blocks.1.conv1': 7 / 8,
        'blocks.0.conv2': 7 / 8,
        'blocks.1.conv2': 7 / 8,
        'fc': 7 / 8,
    }
    assert flops_sparsity(model, batch) == pytest.approx(
        1 - sum(macs[n] * f for n, f in left.items()) / sum(macs.values())
    )


@pytest.mark.parametrize('name', ['chain', 'psbn_chain'])
def test_clamping_is_what_zero_scales_give_and_is_undone(name):
    model, batch = build(name)
    layers = scale_layers(model)
    with torch.no_grad():
        layers['features.1'].weight[:4] = torch.tensor([2**-9, -9e-4, 0, math.nan])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(KeyError), scales_clamped(model, threshold=1e-3):
        clamped = {n: t.clone() for n, t in model.state_dict().items()}
        raise KeyError
    after = model.state_dict()
    assert all(torch.equal(after[n].nan_to_num(7), t.nan_to_num(7)) for n, t in before.items())
    assert clamped['features.1.weight'][:3].tolist() == [2**-9, 0, 0]
    assert clamped['features.1.weight'][3].isnan()
    del clamped['features.1.weight']
    assert all(torch.equal(clamped[n], before[n]) for n in clamped)


def test_nan_gammas_count_as_left():
    model, batch = build('chain')
    with torch.no_grad():
        model.features[1].weight.fill_(math.nan)
        model.features[5].weight.fill_(1)
    assert count_collapsed(model).total == (0, 12) and flops_sparsity(model, batch) == 0


def test_a_norm_without_gamma_has_nothing_to_collapse():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )
    with torch.no_grad():
        model[4].weight[0] = 0
    batch = torch.randn(1, 3, 5, 5)
    macs = [3 * 4, 4 * 4, 4 * 2]
    assert flops_sparsity(model, batch) == pytest.approx((macs[1] + macs[2]) / 4 / sum(macs))


def test_removable_is_what_every_writer_of_a_group_has_idle():
    """A stem and a block write to one stream; a branch of the block has its own channels."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bn0 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.conv1, self.bn1 = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
            self.conv2, self.bn2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.bn0(self.stem(x)).relu()
            x = x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return self.fc(x.mean((2, 3)))

    model, batch = Net(), torch.randn(1, 3, 2, 2)
    graph, cost = trace(model, batch), cost_of(model, batch)
    idle = dict(
        bn0=torch.tensor([True, True, False, False]),
        bn1=torch.tensor([False, True, False]),
        bn2=torch.tensor([True, False, True, False]),
    )
    removable = removable_channels(idle, graph)
    assert {name: mask.tolist() for name, mask in removable.items()} == dict(
        bn0=[True, False, False, False], bn1=[False, True, False], bn2=[True, False, False, False]
    )
    # one of the 4 and one of the 3 channels gone
    assert idle_shares(removable, graph, cost) == pytest.approx(
        dict(stem=1 / 4, conv1=1 - 2 / 3 * 3 / 4, conv2=1 - 2 / 3 * 3 / 4, fc=1 / 4)
    )
    alone = removable_channels(dict(bn0=idle['bn0']), graph)
    assert not alone['bn0'].any()  # nothing is known of the other writer


def test_a_layer_that_is_idle_as_a_whole_keeps_one_channel():
    """As surgery leaves it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = trace(model, torch.randn(1, 3, 2, 2))
    removable = removable_channels({'1': torch.ones(4, dtype=torch.bool)}, graph)
    assert removable['1'].tolist() == [False, True, True, True]


def test_a_scale_that_two_layers_share_is_restored():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1e-4, 1.0, 2.0]))
    model[1].weight = model[0].weight
    with scales_clamped(model, threshold=1e-3):
        assert model[0].weight.tolist() == [0, 1, 2]
    assert model[0].weight[0] == torch.tensor(1e-4)
