"""The census of channels: who reads them first, what was seen of them, what they cost."""

import math

import pytest
import torch
from nets import build, forward, trace
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels

from mmpsbn.functional.activations import activation_statistics
from mmpsbn.layers import psBN2d
from mmpsbn.pruning.census import map_channels, take_census
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.flow import trace_readers
from mmpsbn.pruning.measures import (
    MEASURES,
    ChannelCounts,
    Limits,
    count_channels,
    counts_table,
    mean_universality,
)
from mmpsbn.pruning.observation import observe_channels
from mmpsbn.pruning.sparsity import idle_shares, scale_layers

LIMITS = Limits(gamma=1e-3, eps=1e-12)


def census_of(model, batches):
    channel_map = map_channels(model, trace(model, batches[0]), batches[0], forward)
    seen = observe_channels(model, channel_map.readers, batches, forward)
    return take_census(model, channel_map, seen)


def same(x, y):
    return all(torch.equal(vars(x)[field], vars(y)[field]) for field in vars(x))


class PreActivation(nn.Module):
    """norm - ReLU - convolution, twice, around an identity, and a shortcut with a convolution."""

    def __init__(self, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut, self.bn3 = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.conv3, self.bn4 = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)
        self.inplace = inplace

    def activations(self, x):
        """Name of the norm layer, or of the layer without one -> what is read of it first."""
        stem = self.stem(x)
        a1 = F.relu(self.bn1(stem), inplace=self.inplace)
        a2 = F.relu(self.bn2(self.conv1(a1)), inplace=self.inplace)
        x = stem + self.conv2(a2)
        joined = F.relu(self.bn3(self.shortcut(x)) + self.bn4(self.conv3(x)))
        end = joined.mean((2, 3))
        return dict(bn1=a1, bn2=a2, conv2=x, bn3=end, bn4=end), self.head(end)

    def forward(self, x):
        return self.activations(x)[1]


@pytest.mark.parametrize('inplace', [False, True])
def test_each_channel_is_looked_at_where_it_is_read_first(inplace):
    torch.manual_seed(0)
    model = PreActivation(inplace).double().eval()
    with torch.no_grad():
        for norm in scale_layers(model).values():
            norm.weight.normal_()
            norm.bias.normal_(-1)
    batches = [torch.randn(n, 3, 5, 5, dtype=torch.float64) for n in (2, 3)]
    census = census_of(model, batches)
    with torch.no_grad():
        seen, _ = model.activations(torch.cat(batches))
    # the stem's raw outputs are normalised by bn1 and added, so no norm is theirs alone
    assert set(census) == {'stem', *seen}
    for name, x in seen.items():
        expected = activation_statistics(x, channel_dim=1)
        if name == 'conv2':  # read by two layers, which count as samples of their own
            expected = expected.merged(expected)
        assert same(census[name].activations, expected), name
    assert census['stem'].gamma is None and census['bn1'].writer is None
    assert census['bn2'].writer == 'conv1' and census['conv2'].writer == 'conv2'
    assert torch.equal(census['conv2'].bias, model.conv2.bias.detach().float())
    norms = model.conv1.weight.detach().abs().sum((1, 2, 3)).float()
    torch.testing.assert_close(census['bn2'].l1_norms, norms)


def test_readers_by_hand():
    model, batch = build('residual')
    assert trace_readers(model, batch, forward, sources=scale_layers(model)) == {
        'norm': (('blocks.0.conv1', 0),),
        'blocks.0.bn1': (('blocks.0.conv2', 0),),
        'blocks.0.bn2': (('blocks.1.conv1', 0),),
        'blocks.1.bn1': (('blocks.1.conv2', 0),),
        'blocks.1.bn2': (('fc', 0),),
    }
    model, batch = build('concat')
    # 'right' is normalised once more, and what is read is the other norm's
    assert trace_readers(model, batch, forward, sources=scale_layers(model)) == {
        'left.1': (('out', 0),),
        'norm': (('join', 0),),
    }
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_grouped_convolutions_read_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 8, 3, groups=4, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 2, 1),
    ).eval()
    kill_channels(model[1], [2])
    kill_channels(model[7], [0, 1, 2, 3, 6])
    batch = torch.randn(3, 3, 6, 6)
    census = census_of(model, [batch])
    dead = count_channels(census, 'dead', LIMITS)
    # depthwise: each channel by itself; two groups of four: only all four can be seen as dead
    assert dead.masks['1'].tolist() == [False, False, True, False]
    assert dead.masks['7'].tolist() == [True] * 4 + [False] * 4
    with torch.no_grad():
        x = model[:3](batch)
    assert same(census['1'].activations, activation_statistics(x, channel_dim=1))


def test_channels_of_a_group_norm_are_looked_at_each_by_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    kill_channels(model[1], [3, 7])
    batch = torch.randn(2, 3, 6, 6)
    graph = trace(model, batch)
    assert graph.groups['0'].channels == 2 and graph.channels['0'].channels == 8
    dead = count_channels(census_of(model.eval(), [batch]), 'dead', LIMITS)
    assert dead.masks['1'].nonzero().flatten().tolist() == [3, 7]


def test_norms_of_levels_that_share_their_reader_are_looked_at_by_level():
    torch.manual_seed(0)
    model, batch = build('fpn')
    for norm, gone in zip(model.tower_norms, ([0, 1], [1, 2])):
        nn.init.constant_(norm.bias, 9)  # alive
        kill_channels(norm, gone)
    batches = [batch, batch[:2]]
    assert trace_readers(model, batch, forward, sources=['tower_norms.1', 'stage2.1']) == {
        'tower_norms.1': (('cls', 1), ('reg', 1)),
        'stage2.1': (('lateral2', 0),),
    }
    dead = count_channels(census_of(model, batches), 'dead', LIMITS).masks
    for name, gone in (('tower_norms.0', [0, 1]), ('tower_norms.1', [1, 2])):
        assert dead[name].nonzero().flatten().tolist() == gone
    seen = census_of(model, batches)['tower_norms.1'].activations
    assert seen.samples.unique().tolist() == [2 * 5]  # by cls and reg
    assert seen.values.unique().tolist() == [2 * 5 * 4 * 4]


def test_without_a_map_there_are_scales_and_biases():
    bare = nn.BatchNorm2d(3, affine=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), psBN2d(4), nn.Linear(4, 2), bare)
    (name, channels), *others = take_census(model).items()
    assert name == '1' and not others
    assert torch.equal(channels.bias, torch.full((4,), 0.1)) and channels.writer is None
    assert take_census(nn.Linear(2, 2)) == {}


def test_idle_shares_by_hand():
    model, batch = build('chain')  # 3 -> 6 -> 6 -> 8, no norm behind the third
    idle = {'features.1': torch.arange(6) < 2, 'features.7': torch.arange(8) < 4}
    graph = trace(model, batch)
    cost = model_cost(model, count_positions(model, batch, forward))
    of_features = {'features.0': 2 / 6, 'features.4': 2 / 6, 'features.7': 4 / 8}
    of_classifier = {'classifier.0': 4 / 8, 'classifier.2': 0}
    assert idle_shares(idle, graph, cost) == pytest.approx(of_features | of_classifier)


def test_an_input_is_idle_where_all_that_go_with_it_are_idle():
    # GroupNorm's statistics join its channels: two groups of four, which go together
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    batch = torch.randn(1, 3, 4, 4)
    graph = trace(model, batch)
    cost = model_cost(model, count_positions(model, batch, forward))
    idle = {'1': torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]).bool()}
    assert idle_shares(idle, graph, cost) == pytest.approx({'0': 5 / 8, '3': 4 / 8})


def test_measures_by_hand():
    model = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 1)).eval()
    gamma = [0.0, -9e-4, 1e-3, 1.0, -1.0, math.nan]
    bias = [-1.0, 1.0, 1.0, -2.4, -2.3, 0.0]
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(gamma))
        model[0].bias.copy_(torch.tensor(bias))
    # Phi(-2.4) = 0.0082, Phi(-2.3) = 0.0107
    found = {m: count_channels(take_census(model), m, LIMITS) for m in MEASURES}
    assert found['collapsed'].masks['0'].tolist() == [True, True, False, False, False, False]
    assert found['hardly_active'].masks['0'].tolist() == [True, False, False, True, False, False]
    assert found['collapsed'].by_layer == {'0': (2, 6)} and found['collapsed'].share == 2 / 6
    assert found['dead'].by_layer == {} and found['dead'].share == 0
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.zero_()
    x = -torch.ones(1, 1, 10, 20)
    x[0, 0, 0, 0] = 1  # 1 of 200 is positive
    net[1].bias.data[1] = -9
    census = census_of(net, [x])
    assert count_channels(census, 'dead', LIMITS).masks['1'].tolist() == [False, True]
    assert count_channels(census, 'mostly_zero', LIMITS).masks['1'].tolist() == [True, True]
    assert mean_universality(census) == 0.5
    assert math.isnan(mean_universality(take_census(net)))


def test_mean_universality_is_that_of_the_definition_and_counts_what_is_never_active():
    """Mehta et al. section 3: the share of the images whose max |a| is above 1e-3 of the largest;
    an inactive feature has 0 %."""
    net = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 1))
    net = net.double().eval()
    torch.manual_seed(0)
    sizes = 10 ** torch.empty(40, 6, 1, 1, dtype=torch.float64).uniform_(-6, 0)
    sizes = sizes * torch.rand(40, 6, 3, 3, dtype=torch.float64)
    sizes[:, 4:] = -sizes[:, 4:]  # two of six are never active
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(6)[..., None, None])
        net[0].bias.zero_()
    largest = net[:3](sizes).amax((2, 3))
    ratio = largest / largest.amax(0).clamp_min(1e-300)
    near = ((ratio / 1e-3).log2().abs() < 1 / 8)[..., None, None]  # in doubt: see `universality`
    sizes = sizes * torch.where(near, 0.5, 1.0)
    largest = net[:3](sizes).amax((2, 3))
    shares = (largest > 1e-3 * largest.amax(0)).double().mean(0)
    assert shares[4:].tolist() == [0, 0] and (shares[:4] < 0.9).all()
    census = census_of(net, sizes.split(16))
    assert mean_universality(census) == pytest.approx(float(shares.mean()), rel=1e-12)


def test_the_table_of_counts():
    counts = dict(
        collapsed=ChannelCounts(dict(a=torch.arange(4) < 0, b=torch.arange(5) < 1)),
        mostly_zero=ChannelCounts(dict(b=torch.arange(5) < 2, conv=torch.arange(3) < 0)),
    )
    assert [line.split() for line in counts_table(counts).splitlines()] == [
        ['layer', 'channels', 'collapsed', 'mostly', 'zero'],
        ['a', '4', '0', '(0.0%)'],
        ['b', '5', '1', '(20.0%)', '2', '(40.0%)'],
        ['conv', '3', '0', '(0.0%)'],
    ]
    assert len(counts_table(counts, only_found=True).splitlines()) == 2
    assert counts['collapsed'].total == (1, 9)


def test_channels_that_cannot_be_removed_are_looked_at():
    class Padded(ToyNet):
        """Its stream is padded with zero channels, as option-A shortcuts do."""

        def forward(self, x):
            x = F.relu(self.norm(self.stem(x)))
            x = self.blocks(x).mean((2, 3))
            return self.fc(F.pad(x, (1, 1))[:, 1:-1])

    torch.manual_seed(0)
    model = Padded().eval()
    kill_channels(model.norm, [1])
    batch = torch.randn(2, 3, 8, 8)
    graph = trace(model, batch)
    assert 'stem' in graph.channels and 'stem' not in graph.groups
    assert graph.groups.items() <= graph.channels.items()
    dead = count_channels(census_of(model, [batch]), 'dead', LIMITS)
    assert dead.masks['norm'].nonzero().flatten().tolist() == [1]
