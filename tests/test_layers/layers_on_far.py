"""psBN on a device that is not the CPU (tests/far)."""

import copy
from types import SimpleNamespace

import far
import pytest
import torch
from layer_cases import CASES, make
from torch import nn

from mmpsbn.layers import convert_from_psbn, convert_to_psbn, psSyncBN


@pytest.fixture(scope='module', autouse=True)
def device():
    far.extension()


def trained(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient, parameters and buffers of three steps, on the CPU."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        optimizer.zero_grad()
        (out.sin() * x).sum().backward()
        optimizer.step()
    return [t.detach().cpu() for t in (out, leaf.grad, *layer.state_dict().values())]


@pytest.mark.parametrize('case', CASES)
def test_steps_are_those_of_the_cpu(case):
    layer, _, x = make(case, alpha=0.3)
    ours = copy.deepcopy(layer).to('far')
    torch.testing.assert_close(trained(ours, x.to('far')), trained(layer, x))
    assert {t.device.type for t in ours.state_dict().values()} == {'far'}
    assert torch.equal(ours.beta, ours.bias - 0.3) and ours.beta.device.type == 'far'


def test_a_step_waits_for_nothing():
    layer, _, x = make('psBN2d', alpha=0.3)
    layer, x = layer.to('far'), x.to('far')
    trained(layer, x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    far.take_waits()
    layer(x).square().sum().backward()
    optimizer.step()
    assert far.take_waits() == []


def test_synchronised_statistics_are_those_of_the_joined_batch(monkeypatch):
    """Two ranks with the same batch, of which this is one."""
    two_ranks = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda group: 2,
        group=SimpleNamespace(WORLD=None),
    )
    monkeypatch.setattr('mmpsbn.layers.psbn.dist', two_ranks)
    monkeypatch.setattr('mmpsbn.layers.psbn.all_reduce', lambda tensor, group: 2 * tensor)
    torch.manual_seed(0)
    layer, x = psSyncBN(4).double(), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    found = {d: trained(copy.deepcopy(layer).to(d), x.to(d)) for d in ('far', 'cpu')}
    torch.testing.assert_close(found['far'], found['cpu'])


def test_conversion_leaves_layers_where_they_are():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to('far')
    for convert in (convert_to_psbn, convert_from_psbn):
        convert(net)
        assert {t.device.type for t in net.state_dict().values()} == {'far'}
