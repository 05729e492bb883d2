"""Collapsed filters, in numbers, in FLOPs and in weights."""

import math

import pytest
import torch
from nets import build, cost_of, forward, torch_macs, trace
from torch import nn
from toy import kill_channels

from mmpsbn.layers import psBN2d, psGN
from mmpsbn.pruning.census import take_census
from mmpsbn.pruning.measures import Limits, count_channels
from mmpsbn.pruning.prune import prune_channels
from mmpsbn.pruning.sparsity import idle_shares, removable_channels, scale_layers, scales_clamped


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


def sparsity(model, batch):
    """Claimed for the collapsed filters: of the MACs, of the weights."""
    cost = cost_of(model, batch)
    shares = idle_shares(count_collapsed(model).masks, trace(model, batch), cost)
    assert set(shares) == set(cost.macs_of)
    return tuple(
        sum(size * shares[name] for name, size in sizes.items()) / sum(sizes.values())
        for sizes in (cost.macs_of, cost.weights_of)
    )


def build_without_chance(name):
    """No channel of it has collapsed."""
    model, batch = build(name)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.where(p.abs() < 0.05, torch.full_like(p, 0.1), p))
    return model, batch


def weights_of(model):
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    'name, dead',
    [
        ('chain', {'features.1': [0, 3], 'features.5': [1, 2, 5]}),
        ('psbn_chain', {'features.1': [4], 'features.5': [0, 2]}),
        ('residual', {'blocks.0.bn1': [0, 1, 7], 'blocks.1.bn1': [11]}),
        ('concat', {'left.1': [0], 'right.1': [2, 3], 'norm': [0, 7, 8]}),
        ('fpn', {'stage1.1': [0, 5], 'tower_norms.0': [1, 2, 8], 'tower_norms.1': [2, 8]}),
    ],
)
def test_what_is_claimed_is_what_removing_the_collapsed_filters_saves(name, dead):
    model, batch = build_without_chance(name)
    for layer, channels in dead.items():
        kill_channels(model.get_submodule(layer), channels)
    claimed = sparsity(model, batch)
    dense = torch_macs(model, batch), weights_of(model)
    graph, masks = trace(model, batch), {}
    for key, group in graph.groups.items():
        norms = [norm for m in group.writers for norm in graph.norm_of.get(m.layer, ['none'])]
        collapsed = set.intersection(*(set(dead.get(norm, ())) for norm in norms))
        masks[key] = torch.tensor([c not in collapsed for c in range(group.channels)])
    result = prune_channels(
        model, graph.groups, masks, batch=batch, forward_fn=forward, tolerance=1e-12
    )
    assert sum(result.channels_removed.values()) > 0
    left = torch_macs(model, batch) / dense[0], weights_of(model) / dense[1]
    assert claimed == pytest.approx([1 - share for share in left], abs=1e-12)
    assert sparsity(model, batch) == (0, 0)


def test_flops_sparsity_by_hand_on_a_residual_stream():
    """A stream channel is gone for its readers where all of its writers have collapsed, for a
    writer where its own norm has."""
    model, batch = build_without_chance('residual')
    with torch.no_grad():
        for layer in (model.norm, model.blocks[0].bn2, model.blocks[1].bn2):
            layer.weight[2] = 0
        model.norm.weight[5] = 0
    macs = cost_of(model, batch).macs_of
    left = sum(n * (6 / 8 if name == 'stem' else 7 / 8) for name, n in macs.items())
    assert sparsity(model, batch)[0] == pytest.approx(1 - left / sum(macs.values()))


def test_clamping_is_what_zero_scales_give_and_is_undone():
    model, _ = build('psbn_chain')
    layers = scale_layers(model)
    with torch.no_grad():
        layers['features.1'].weight[:4] = torch.tensor([2**-9, -9e-4, 0, math.nan])
    layers['features.5'].weight = layers['features.1'].weight  # shared: cleared and put back once
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(KeyError), scales_clamped(model, threshold=1e-3):
        clamped = {n: t.clone() for n, t in model.state_dict().items()}
        raise KeyError
    after = model.state_dict()
    assert all(torch.equal(after[n].nan_to_num(7), t.nan_to_num(7)) for n, t in before.items())
    for name in ('features.1.weight', 'features.5.weight'):
        scales = clamped.pop(name)
        assert scales[:3].tolist() == [2**-9, 0, 0] and scales[3].isnan()
    assert all(torch.equal(clamped[n], before[n]) for n in clamped)


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
    assert sparsity(model, batch)[0] == pytest.approx((macs[1] + macs[2]) / 4 / sum(macs))


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
