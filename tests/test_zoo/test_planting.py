"""The census and the planting of the zoo's test, on small nets."""

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
