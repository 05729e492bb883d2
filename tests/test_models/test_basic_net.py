from math import sqrt
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

import mmpsbn  # noqa: F401  (registers BasicNet)

CONFIGS = Path(__file__).parents[2] / 'configs/cifar'


def build(**settings):
    net = MODELS.build(dict(type='BasicNet', width='32-0.25x', **settings))
    net.init_weights()
    return net


def test_layers_come_in_the_order_convolution_norm_activation():
    torch.manual_seed(0)
    net = build().eval()
    block = net.features[0]
    nn.init.uniform_(block.bn.weight, -1, 1)
    x = torch.randn(2, 3, 8, 8)
    inner = nn.functional.conv2d(x, block.conv.weight, padding=2)
    torch.testing.assert_close(block(x), block.bn(inner).relu())
    assert [type(layer).__name__ for layer in net.features if not hasattr(layer, 'conv')] == [
        'MaxPool2d'
    ] * 3
    assert [i for i, layer in enumerate(net.features) if not hasattr(layer, 'conv')] == [1, 4, 7]


def test_xavier_with_the_gain_of_a_relu():
    torch.manual_seed(0)
    conv, norm = build().features[-2].conv, build().features[-2].bn
    assert conv.weight.shape == (128, 64, 3, 3)
    expected = sqrt(2) * sqrt(2 / (9 * (64 + 128)))
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()


def test_the_papers_vgg_begins_so_too():
    torch.manual_seed(0)
    cfg = Config.fromfile(str(CONFIGS / 'vgg16_bn_cifar10_in_memory.py'))
    net = MODELS.build(dict(cfg.model, _scope_='mmpretrain'))
    net.init_weights()
    found = {tuple(m.weight.shape): m.weight.std().item() for m in net.modules() if is_layer(m)}
    for shape in ((128, 64, 3, 3), (512, 512, 3, 3), (512, 512)):
        taps = shape[2] ** 2 if len(shape) == 4 else 1
        expected = sqrt(2) * sqrt(2 / (taps * (shape[0] + shape[1])))
        assert found[shape] == pytest.approx(expected, rel=0.03)


def is_layer(module):
    return isinstance(module, (nn.Conv2d, nn.Linear))


def test_norm_activation_and_initialisation_are_settings():
    net = build(norm_cfg=dict(type='psBN', alpha=0.25), act_cfg=dict(type='LeakyReLU'))
    assert type(net.features[0].bn).__name__.startswith('psBN')
    torch.testing.assert_close(net.features[0].bn.bias.detach(), torch.full((32,), 0.25))
    assert sum(isinstance(m, nn.LeakyReLU) for m in net.modules()) == 7
    bare = build(norm_cfg=None, act_cfg=None)
    assert all(m.bias is not None for m in bare.modules() if isinstance(m, nn.Conv2d))
    assert not any(isinstance(m, (nn.ReLU, nn.BatchNorm2d)) for m in bare.modules())
    zero = build(init_cfg=dict(type='Constant', val=0, layer='Conv2d'))
    assert zero.features[0].conv.weight.eq(0).all()


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="one of 64-1x, 64-0.5x, 32-0.25x, got '2x'"):
        MODELS.build(dict(type='BasicNet', width='2x'))
