"""Random filters that are not Kaiming's."""

import pytest
import torch
from mmengine.model import initialize
from torch import nn

from mmpsbn.models import RandomFiltersInit


def built(kind, *sizes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(*sizes), nn.BatchNorm2d(sizes[1]), nn.Linear(2, 2))
    before = net[2].weight.clone()
    initialize(net, dict(type='RandomFilters', kind=kind))
    assert torch.equal(net[2].weight, before) and (net[1].weight == 1).all()
    return net[0].weight.detach().flatten(1).double()


def test_binarized_filters_have_two_values():
    filters = built('binarized', 16, 64, 3)
    assert filters.unique().tolist() == pytest.approx([-((2 / 144) ** 0.5), (2 / 144) ** 0.5])
    assert abs(float(filters.sign().mean())) < 0.05  # of 9,216: five standard deviations


def test_orthogonal_filters_and_columns():
    few, many = built('orthogonal', 16, 64, 3), built('orthogonal', 16, 64, 1)
    torch.testing.assert_close(few @ few.T, 2 * torch.eye(64).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(many.T @ many, 2 * torch.eye(16).double(), atol=1e-5, rtol=0)
    assert float(few.square().mean()) == pytest.approx(2 / 144)
    assert float(many.square().mean()) == pytest.approx(2 / 64)


def test_what_it_cannot_do():
    with pytest.raises(ValueError, match="kind must be one of .*, got 'ternary'"):
        RandomFiltersInit('ternary')
    with pytest.raises(ValueError, match='RandomFilters sets Conv2d layers; Linear has none'):
        RandomFiltersInit('binarized')(nn.Linear(2, 2))
