import pytest
import torch
from mmengine.model import BaseModule, initialize
from torch import nn

from mmpsbn.layers import alpha_of, psBN2d, psGN, psIN
from mmpsbn.models import NormAffineInit


class Net(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 64, 3)
        self.layers = nn.ModuleList(
            [
                nn.BatchNorm2d(500),
                psBN2d(500, alpha=0.1),
                nn.GroupNorm(2, 64),
                psGN(64, 2),
                psIN(64),
                nn.BatchNorm2d(8, affine=False),
            ]
        )

    @property
    def gammas(self):
        return torch.cat([m.weight for m in self.layers if m.weight is not None]).detach()

    @property
    def betas(self):
        """What the optimizer sees."""
        named = dict(self.layers.named_parameters())
        biases = [p for n, p in named.items() if n.endswith('bias')]
        return torch.cat([p - (alpha_of(p) or 0) for p in biases]).detach()


def built(**settings):
    torch.manual_seed(0)
    net = Net(dict(type='NormAffine', **settings))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)
    net.init_weights()
    return net


@pytest.mark.parametrize('low, high', [(0, 1), (-1, 1), (0.25, 0.5)])
def test_uniform_gamma(low, high):
    gammas = built(gamma=[low, high]).gammas
    assert low <= gammas.min() and gammas.max() <= high
    assert gammas.mean() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))
    assert gammas.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)


@pytest.mark.parametrize('gamma', [1, 0.1, -2.0])
@pytest.mark.parametrize('beta', [-0.1, 0, 1.0])
def test_constants(gamma, beta):
    net = built(gamma=gamma, beta=beta)
    assert torch.equal(net.gammas, torch.full_like(net.gammas, gamma))
    torch.testing.assert_close(net.betas, torch.full_like(net.betas, beta))  # psBN's alpha on top


def test_the_default_is_a_fresh_norm_and_other_layers_stay():
    net = built()
    assert (net.gammas == 1).all() and (net.betas == 0).all()
    assert (net.conv.weight == 7).all() and (net.conv.bias == 7).all()


def test_it_follows_other_entries_of_a_list_and_stands_in_an_override():
    first = dict(type='Constant', layer='_BatchNorm', val=3, bias=3)
    net = Net([first, dict(type='NormAffine', gamma=0.5, beta=1.0)])
    net.init_weights()
    assert (net.gammas == 0.5).all()
    torch.testing.assert_close(net.betas, torch.ones_like(net.betas))
    override = dict(type='NormAffine', name='layers', gamma=0.25)
    initialize(net, dict(type='Constant', layer='Conv2d', val=2, override=override))
    assert (net.gammas == 0.25).all() and (net.conv.weight == 2).all()


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(gamma=[1, 0]), r'gamma must be a finite number or \[low, high\].*got \[1, 0\]'),
        (dict(gamma=[0, 1, 2]), 'gamma must be'),
        (dict(gamma='one'), 'gamma must be'),
        (dict(gamma=[0, float('inf')]), 'gamma must be'),
        (dict(beta=None), 'beta must be a finite number, got None'),
        (dict(beta=[0, 1]), 'beta must be a finite number'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        NormAffineInit(**settings)


def test_a_module_without_norm_layers_and_a_norm_without_an_offset():
    with pytest.raises(ValueError, match='NormAffine sets gamma and beta.*Linear has none'):
        NormAffineInit()(nn.Linear(2, 2))
    norm = nn.BatchNorm2d(4)
    norm.bias = None
    NormAffineInit(gamma=0.5)(norm)
    assert (norm.weight == 0.5).all() and norm.bias is None
