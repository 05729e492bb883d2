"""The census and the planting of the zoo's test, on small nets."""

import pytest
import torch
from census import take_census
from planting import plant_dead_channels_
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """One of everything that the census tells apart."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.inner, self.inner_bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last, self.last_bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.gate, self.join = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.grouped, self.out = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem_bn(self.stem(x))
        y = F.relu(self.inner_bn(self.inner(F.relu(x))), inplace=True)
        x = F.relu(x + self.last_bn(self.last(y)))
        left = F.silu(self.left(x))
        both = torch.cat([left, self.right(x)], 1)
        x = self.join(both * self.gate(left).sigmoid())
        return self.out(self.grouped(x))


def census_of(model, shape=(1, 3, 4, 4)):
    images = torch.randn(shape)
    return take_census(model.eval(), lambda model: model(images))


def test_census_of_a_net():
    census = census_of(Net())
    assert census.streams == [('last_bn', 'stem_bn')]
    assert census.inner == {'inner_bn'}
    assert census.rectified == {'inner_bn'}
    assert set(census.widths) == {'stem_bn', 'inner_bn', 'last_bn', 'left', 'right', 'gate'} | {
        'join',
        'grouped',
    }


class Sum(nn.Module):
    """Two convolutions with norms that are added, and what happens to the sum."""

    def __init__(self, use):
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)) for _ in range(2)
        )
        self.norm, self.grouped = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, groups=2)
        self.out, self.use = nn.Conv2d(6, 2, 1), use

    def forward(self, x):
        return self.use(self, self.left(x) + self.right(x), x)


@pytest.mark.parametrize(
    'use, certain',
    [
        (lambda net, y, x: net.out(y), True),
        (lambda net, y, x: net.out(F.relu(y)), True),
        (lambda net, y, x: (net.out(y), y), False),
        (lambda net, y, x: net.out(net.norm(y)), False),
        (lambda net, y, x: net.out(y + net.norm(y)), False),
        (lambda net, y, x: (net.out(y), net.out(net.grouped(y))), False),
        (lambda net, y, x: net.out(y + torch.randn(1, 6, 1, 1)), False),
        (lambda net, y, x: net.out(y + net.left[0](x)), False),
        (lambda net, y, x: net.out(y + net.norm(net.left[0](x))), False),
    ],
)
def test_whose_sum_is_certain(use, certain):
    assert census_of(Sum(use)).streams == ([('left.1', 'right.1')] if certain else [])


@pytest.mark.parametrize('before_norm', [False, True])
def test_what_is_seen_before_its_norm_is_not_inner(before_norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.out = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            out = self.out(self.bn(y).relu())
            return (out, y.mean()) if before_norm else out

    assert census_of(Net()).inner == (set() if before_norm else {'bn'})


class Shared(nn.Module):
    """A head that two levels share, each with its own norm; a tied pair; an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.tower = nn.Conv2d(6, 6, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        levels = self.first(x), self.second(x)
        towers = [norm(self.tower(F.relu(p))) for norm, p in zip(self.norms, levels)]
        return levels[0], [self.out(t) for t in towers]


def test_what_a_shared_layer_reads_is_not_certain():
    census = census_of(Shared())
    assert not census.inner and not census.streams
    assert set(census.widths) == {'first', 'second', 'norms.0', 'norms.1'}


def plant(model, seed=0):
    model = model.eval()
    census = census_of(model)
    return census, plant_dead_channels_(model, census, seed)


def test_planted_channels_are_dead_and_repeatable():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 2, 1))
    census, planted = plant(model)
    assert planted.channels == planted.certain and set(planted.channels) == {'1'}
    dead = planted.channels['1']
    assert 2 < len(dead) < 20
    features = model[:3](torch.randn(2, 3, 5, 5))
    assert features[:, dead].abs().max() == 0
    assert {bool(b < 0) for b in model[1].bias[dead]} == {True, False}
    assert plant(model)[1] == planted


def test_streams_are_dead_at_every_writer():
    model = Net()
    _, planted = plant(model)
    assert planted.certain['stem_bn'] == planted.certain['last_bn']
    for name, channels in planted.channels.items():
        layer = model.get_submodule(name)
        assert layer.weight[channels].abs().max() == 0
        assert layer.bias[channels].max() <= 0
    stream = planted.certain['stem_bn']
    assert model.stem_bn.bias[stream].abs().max() == 0  # its ReLU comes after the addition


def test_units_of_groups_die_together():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 24, 1, groups=4, bias=False),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 8, 1),
        nn.GroupNorm(1, 8),
        nn.Conv2d(8, 2, 1),
    )
    assert census_of(model).unit_sizes == {'1': 4, '3': 6, '5': 8}
    planted = [plant(model, seed)[1] for seed in range(6)]
    for name, width, size in (('1', 16, 4), ('3', 24, 6)):
        dead = [p.channels[name] for p in planted if name in p.channels]
        assert any(dead)
        for channels in dead:
            assert len(channels) < width
            assert channels == [c for c in range(width) if c // size * size in channels]
    assert not any(p.channels.get('5') or p.certain for p in planted)  # it would die as a whole
