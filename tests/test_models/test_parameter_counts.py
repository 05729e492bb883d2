"""The counts that the papers print, net by net.

BN-only: table 1 and table C.1 of Frankle et al., arXiv 2003.00152. BasicNet: Mehta et al., CVPR
2019. Built on the meta device, where even ResNet-1202 takes a second.
"""

import mmpretrain.models  # noqa: F401
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

CONVOLUTIONS = (nn.Conv2d,)
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


def build(out_channels, **backbone):
    config = dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=out_channels),
    )
    with torch.device('meta'):
        return MODELS.build(config)


def count(model, kinds=(nn.Module,), within=''):
    return sum(
        parameter.numel()
        for name, module in model.named_modules()
        if isinstance(module, kinds) and within in name
        for parameter in module.parameters(recurse=False)
    )


def counts(model):
    return dict(
        total=count(model),
        norm=count(model, NORMS),
        output=count(model.head),
        shortcut=count(model, CONVOLUTIONS, within='downsample'),
    )


def unit_of(printed):
    """'1.73M' -> 1.73e6 and the unit of its last digit, 1e4."""
    scale = dict(K=1e3, M=1e6).get(printed[-1], 1)
    digits = printed.rstrip('KM')
    decimals = len(digits.partition('.')[2])
    return float(digits) * scale, scale / 10**decimals


def assert_printed(found, printed):
    for part, text in printed.items():
        value, unit = unit_of(text)
        assert abs(found[part] - value) <= unit / 2, f'{part}: {found[part]} is not {text}'


# depth, width scale: total, BatchNorm, output and shortcut as printed in table 1
RESNETS = {
    (14, 1): ('175K', '1.12K', '650', '2.56K'),
    (32, 1): ('467K', '2.46K', '650', '2.56K'),
    (56, 1): ('856K', '4.26K', '650', '2.56K'),
    (110, 1): ('1.73M', '8.29K', '650', '2.56K'),
    (218, 1): ('3.48M', '16.4K', '650', '2.56K'),
    (434, 1): ('6.98M', '32.5K', '650', '2.56K'),
    (866, 1): ('14.0M', '64.7K', '650', '2.56K'),
    # The table prints 696K: the net has 696,618, and every other count of the table is rounded.
    (14, 2): ('697K', '2.24K', '1.29K', '10.2K'),
    (14, 4): ('2.78M', '4.48K', '2.57K', '41.0K'),
    (14, 8): ('11.1M', '8.96K', '5.13K', '164K'),
    (14, 16): ('44.3M', '17.9K', '10.3K', '655K'),
    (14, 32): ('177M', '35.8K', '20.5K', '2.62M'),
}


@pytest.mark.parametrize('depth, width', RESNETS)
def test_cifar_resnets_and_wide_ones_have_the_counts_of_table_1(depth, width):
    model = build(
        64 * width, type='CIFARResNet', depth=depth, shortcut='B', base_channels=16 * width
    )
    printed = zip(('total', 'norm', 'output', 'shortcut'), RESNETS[depth, width])
    assert_printed(counts(model), dict(printed))


def test_resnet_1202_has_the_size_that_he_et_al_print():
    found = counts(build(64, type='CIFARResNet', depth=1202))
    assert_printed(found, dict(total='19.4M'))  # arXiv 1512.03385, table 6
    assert found['shortcut'] == 0


VGGS = {
    11: ('9.23M', '5.5K', '5.13K'),
    13: ('9.42M', '5.89K', '5.13K'),
    16: ('14.73M', '8.45K', '5.13K'),
    19: ('20.04M', '11.01K', '5.13K'),
}


@pytest.mark.parametrize('depth', VGGS)
def test_cifar_vggs_are_mmpretrains_and_have_the_counts_of_table_c1(depth):
    """The table counts a bias in each convolution, useless before BatchNorm; so has mmpretrain."""
    settings = dict(depth=depth, with_last_pool=False, norm_cfg=dict(type='BN'))
    found = counts(build(512, type='mmpretrain.VGG', **settings))
    assert_printed(found, dict(zip(('total', 'norm', 'output'), VGGS[depth])))


@pytest.mark.parametrize(
    'width, features, out_channels',
    [('64-1x', 1856, 512), ('64-0.5x', 960, 256), ('32-0.25x', 480, 128)],
)
def test_basic_net_has_the_papers_features_and_weights(width, features, out_channels):
    model = build(out_channels, type='BasicNet', width=width)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.out_channels for m in convolutions) == features
    assert count(model.backbone, NORMS) == 2 * features
    if width == '64-1x':
        assert [m.out_channels for m in convolutions] == [64, 128, 128, 256, 256, 512, 512]
        assert count(model, CONVOLUTIONS) == 4_649_664
    assert [m.kernel_size for m in convolutions] == [(5, 5)] + [(3, 3)] * 6
    assert all(m.bias is None for m in convolutions)
    out = model.backbone(torch.empty(2, 3, 32, 32, device='meta'))
    assert len(out) == 1 and out[0].shape == (2, out_channels, 4, 4)
