"""What mmcv, MMEngine, mmdet and torch do with psBN layers."""

import pytest
import torch
from layer_cases import C, make, randomise
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.cnn import fuse_conv_bn as mmcv_fuse_conv_bn
from mmdet.models import ResNet
from mmengine import MODELS
from mmengine.model import BaseModule, convert_sync_batchnorm, initialize, revert_sync_batchnorm
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import mmpsbn  # noqa: F401
from mmpsbn.layers import PostShift, psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN
from mmpsbn.models import start_at_alpha

close = dict(rtol=1e-11, atol=1e-11)
REGISTERED = dict(
    psBN=psBN2d,
    psBN1d=psBN1d,
    psBN2d=psBN2d,
    psBN3d=psBN3d,
    psSyncBN=psSyncBN,
    psIN=psIN,
    psGN=psGN,
)


def config(name, **kwargs):
    return dict(type=name, **(dict(num_groups=3) if name == 'psGN' else {}), **kwargs)


@pytest.mark.parametrize('name', REGISTERED)
def test_mmcv_builds_each_layer_from_a_config(name):
    abbreviation, layer = build_norm_layer(
        config(name, alpha=0.3, requires_grad=False), C, postfix=1
    )
    assert type(layer) is REGISTERED[name] and layer.alpha == 0.3
    assert abbreviation == {'psIN': 'in1', 'psGN': 'gn1'}.get(name, 'bn1')
    assert layer.weight.numel() == C and not any(p.requires_grad for p in layer.parameters())
    assert build_norm_layer(config(name), C)[1].alpha == 0.1
    assert MODELS.get(name) is REGISTERED[name]


@pytest.mark.parametrize('name', ['psBN', 'psSyncBN'])
@pytest.mark.parametrize(
    'fuse', [mmcv_fuse_conv_bn, lambda m: fuse_conv_bn_eval(m[0], m[1])], ids=['mmcv', 'torch']
)
def test_fused_convolution_computes_the_same(fuse, name):
    layer = randomise(build_norm_layer(config(name, alpha=0.5), C)[1])
    model = nn.Sequential(nn.Conv2d(3, C, 3), layer).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    before = model(x)
    torch.testing.assert_close(fuse(model)(x), before, **close)


def biases(model):
    return {n: m.bias.detach() for n, m in model.named_modules() if isinstance(m, PostShift)}


class Neck(BaseModule):
    """Norms that init code of MMEngine, mmcv and torchvision's kind reaches."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        norm = dict(type='psBN', alpha=0.3)
        self.conv = ConvModule(3, C, 1, norm_cfg=norm)
        self.plain = nn.Sequential(build_norm_layer(norm, C)[1], build_norm_layer(norm, C)[1])
        nn.init.zeros_(self.plain[0].bias)
        nn.init.constant_(self.plain[1].bias, 2.0)


def test_init_code_that_writes_0_means_beta():
    model = Neck([dict(type='Kaiming', layer='Conv2d')])
    assert not model.conv.bn.bias.any(), 'mmcv has not written 0: no test'
    model.init_weights()
    found = biases(model)
    assert torch.equal(found['conv.bn'], torch.full((C,), 0.3))
    assert torch.equal(found['plain.0'], torch.full((C,), 0.3))
    assert torch.equal(found['plain.1'], torch.full((C,), 2.0))
    net = ResNet(
        18,
        norm_cfg=dict(type='psBN', requires_grad=True),
        base_channels=8,
        stem_channels=8,
        zero_init_residual=True,
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', val=1, layer=['_BatchNorm']),
        ],
    )
    net.init_weights()
    assert len(biases(net)) == 20
    for bias in biases(net).values():
        assert torch.equal(bias, torch.full_like(bias, 0.1))
    bn = nn.Sequential(nn.BatchNorm2d(C))
    start_at_alpha(bn)
    assert not bn[0].bias.any()


def test_pretrained_biases_stay_zeros_too(tmp_path):
    torch.save(dict(state_dict=Neck().state_dict()), tmp_path / 'n.pth')
    model = Neck(dict(type='Pretrained', checkpoint=str(tmp_path / 'n.pth')))
    model.init_weights()
    for ours, theirs in zip(biases(model).values(), biases(Neck()).values()):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    'layer', [psBN1d(C), psBN2d(C), psBN3d(C), psSyncBN(C), psIN(C), psGN(C, 2)]
)
def test_init_cfg_finds_the_layer_by_the_name_of_its_kind(layer):
    model = nn.Sequential(layer)
    kinds = ['_BatchNorm', '_InstanceNorm', 'GroupNorm']
    initialize(model, dict(type='Constant', val=0.25, bias=2.0, layer=kinds))
    assert torch.equal(layer.weight, torch.full((C,), 0.25))
    assert torch.equal(layer.bias, torch.full((C,), 2.0))


def decays_to(bias):
    """Where an optimizer pulls it that sees no gradient."""
    optimizer = torch.optim.SGD([bias], lr=0.5, weight_decay=1.0)
    for _ in range(60):
        bias.grad = torch.zeros_like(bias)
        optimizer.step()
    return bias.detach()


@pytest.mark.parametrize('case', ['psBN1d-NC', 'psBN2d', 'psBN3d', 'psSyncBN'])
@pytest.mark.parametrize(
    'convert',
    [lambda m: convert_sync_batchnorm(m, 'torch'), nn.SyncBatchNorm.convert_sync_batchnorm],
    ids=['mmengine', 'torch'],
)
def test_conversion_to_sync_batch_norm_and_back_keeps_what_decays_to_alpha(case, convert):
    layer, _, x = make(case, alpha=0.35)
    twin = make(case, alpha=0.35)[0]
    bias = layer.bias
    converted = convert(nn.Sequential(layer, nn.BatchNorm2d(C).double()).train())
    assert type(converted[0]) is nn.SyncBatchNorm and converted[0].bias is bias
    reverted = revert_sync_batchnorm(converted)
    assert not isinstance(reverted[0], nn.SyncBatchNorm) and reverted[0].bias is bias
    torch.testing.assert_close(reverted[0](x), twin.train()(x), **close)
    torch.testing.assert_close(decays_to(bias), torch.full_like(bias, 0.35))
    plain = reverted[1].bias
    torch.testing.assert_close(decays_to(plain), torch.zeros_like(plain))


def test_other_psbn_like_layers_stay_themselves():
    model = nn.Sequential(psIN(C, 1e-5, 0.1, True), psGN(C, 2))
    layers = list(model)
    for change in (lambda m: convert_sync_batchnorm(m, 'torch'), revert_sync_batchnorm):
        assert list(change(model)) == layers
