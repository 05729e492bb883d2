import importlib.util
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from PIL import Image

from mmpsbn.functional.statistics import collapsed_mask
from mmpsbn.models.cifar_resnet import PUBLISHED_KEYS, CIFARResNet, ZeroPadShortcut
from mmpsbn.pruning import prune_dead_channels
from mmpsbn.pruning.census import take_census
from mmpsbn.pruning.measures import Limits, count_channels
from mmpsbn.pruning.observation import observe_channels
from mmpsbn.pruning.sparsity import scale_layers, scales_clamped

SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_key_map_leaves_no_key_over_and_none_out():
    theirs = [*CIFARResNet(depth=8).state_dict(), 'linear.weight', 'linear.bias']
    for prefix in ('', 'module.'):
        keys = [prefix + key for key in theirs]
        for pattern, replacement in PUBLISHED_KEYS:
            keys = [re.sub(pattern, replacement, key) for key in keys]
        assert set(keys) == set(classifier(8).state_dict())


@pytest.mark.parametrize(
    'depth, published', [(20, 269722), (32, 464154), (56, 853018), (110, 1727962)]
)
def test_parameter_counts_are_the_published_ones(depth, published):
    backbone = CIFARResNet(depth=depth)
    assert count(backbone) + count(torch.nn.Linear(64, 10)) == published


def test_shapes_widths_and_option_b():
    images = torch.randn(2, 3, 32, 32)
    for shortcut in 'AB':
        maps = CIFARResNet(depth=14, shortcut=shortcut)(images)
        assert isinstance(maps, tuple) and [tuple(m.shape) for m in maps] == [(2, 64, 8, 8)]
    odd = CIFARResNet(depth=8, base_channels=4)(torch.randn(1, 3, 30, 33))[0]
    assert odd.shape == (1, 16, 8, 9)
    extra = count(CIFARResNet(depth=20, shortcut='B')) - count(CIFARResNet(depth=20))
    assert extra == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # two conv1x1 and their norms
    assert 'layer2.0.downsample.0.weight' in CIFARResNet(shortcut='B').state_dict()


def test_zero_pad_shortcut_by_hand():
    x = torch.arange(1.0, 2 * 9 + 1).reshape(1, 2, 3, 3)
    out = ZeroPadShortcut(2, 5, stride=2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])  # 3 missing channels: 1 before, 2 after
    assert out[:, [0, 3, 4]].abs().sum() == 0


def test_one_block_computes_what_the_paper_says():
    torch.manual_seed(0)
    net = CIFARResNet(depth=8, base_channels=4).eval()
    block = net.layer2[0]
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
            torch.nn.init.uniform_(module.bias)
            module.running_mean.uniform_()
    x = torch.randn(2, 4, 8, 8)
    inner = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=2, padding=1)))
    inner = block.bn2(F.conv2d(inner, block.conv2.weight, padding=1))
    padded = torch.cat([torch.zeros(2, 2, 4, 4), x[:, :, ::2, ::2], torch.zeros(2, 2, 4, 4)], 1)
    torch.testing.assert_close(block(x), F.relu(inner + padded))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(depth=2), r'depth must be 6n \+ 2 .*got 2'),
        (dict(depth=20.0), r'depth must be 6n \+ 2 .*got 20.0'),
        (dict(shortcut='C'), "shortcut must be 'A' .* or 'B' .*got 'C'"),
        (dict(base_channels=0), 'base_channels must be >= 1, got 0'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CIFARResNet(**arguments)


def test_initialisation():
    net = MODELS.build(dict(type='CIFARResNet', depth=20))
    net.init_weights()
    weight = net.layer3[0].conv1.weight  # 32 -> 64 channels, so fan_in and fan_out differ
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert torch.equal(net.layer3[1].bn1.weight, torch.ones(64))


def test_norm_layer_comes_from_norm_cfg():
    net = CIFARResNet(depth=8, norm_cfg=dict(type='GN', num_groups=4))
    assert sum(isinstance(module, torch.nn.GroupNorm) for module in net.modules()) == 7
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize('shortcut', ['A', 'B'])
def test_without_norm_and_activation_the_net_is_affine(shortcut):
    torch.manual_seed(0)
    net = CIFARResNet(8, shortcut, base_channels=4, norm_cfg=None, act_cfg=None).double()
    net.init_weights()
    for name, parameter in net.named_parameters():
        if name.endswith('bias'):
            torch.nn.init.normal_(parameter)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.bias is not None for m in convolutions)
    assert not any(isinstance(m, (torch.nn.ReLU, torch.nn.BatchNorm2d)) for m in net.modules())
    a, b = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64)
    f_a, f_b, f_sum, f_0 = (net(x)[0] for x in (a, b, a + b, 0 * a))
    assert f_0.abs().max() > 0.1
    torch.testing.assert_close(f_sum - f_0, (f_a - f_0) + (f_b - f_0))


def test_psbn_keeps_names_and_survives_initialisation():
    """The norm init of ``init_cfg`` writes 0 into the bias; psBN's effective one must be alpha."""
    net = MODELS.build(dict(type='CIFARResNet', depth=8, norm_cfg=dict(type='psBN', alpha=0.25)))
    net.init_weights()
    assert set(net.state_dict()) == set(CIFARResNet(depth=8).state_dict())
    assert type(net.layer2[0].bn1).__name__.startswith('psBN')
    torch.testing.assert_close(net.layer2[0].bn1.bias.detach(), torch.full((32,), 0.25))


def classifier(depth):
    import mmpretrain.models  # noqa: F401  (fills the registry)

    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=depth),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=64),
        )
    )


def published_classifier(depth):
    """The ResNet that others trained, skipping the test where its file is not at hand."""
    weights = SHARED / 'cifar10_resnets' / f'resnet{depth}.pth'
    if not weights.is_file():
        pytest.skip(f'needs ../shared/data/{weights.relative_to(SHARED)}')
    model = classifier(depth)
    load_checkpoint(model, str(weights), map_location='cpu', revise_keys=PUBLISHED_KEYS)
    return model.eval()


def classify(model, pixels):
    return model.head.fc(model.extract_feat(pixels)[-1])


@pytest.fixture(scope='module')
def pictures_and_labels():
    """1,000 test pictures, normalised, (N, 3, 32, 32), and their labels."""
    archive = SHARED / 'cifar10_jpeg.tar.xz'
    if not archive.is_file():
        pytest.skip(f'needs ../shared/data/{archive.relative_to(SHARED)}')
    pictures, labels = read_cifar_test_pictures(archive, per_class=100)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    return pixels, labels


@pytest.mark.parametrize(
    'depth, collapsed, inner, dead', [(20, (17, 688), 13, 13), (32, (36, 1136), 25, 23)]
)
def test_collapsed_filters_of_published_weights_cost_time_and_give_nothing(
    depth, collapsed, inner, dead, pictures_and_labels
):
    """What is collapsed, and, of the channels inside the blocks, what is dead. Two of the
    ResNet-32's fire on 1 and 4 of 2,000 pictures, perhaps on none of these."""
    model, (pixels, labels) = published_classifier(depth), pictures_and_labels
    pixels, labels = pixels[::4], labels[::4]
    found = count_channels(take_census(model), 'collapsed', Limits(gamma=1e-3, eps=0.0))
    assert found.total == collapsed
    norms = scale_layers(model).items()
    inner_norms = {n: m for n, m in norms if '.layer' in n and n.endswith('.bn1')}
    readers = {name: ((name.replace('bn1', 'conv2'), 0),) for name in inner_norms}
    observed = observe_channels(model, readers, pixels.split(50), classify)
    small, silent = 0, 0
    for norm, seen in zip(inner_norms.values(), observed.values()):
        mask = collapsed_mask(norm.weight, threshold=1e-3)
        inactive = seen.inactive_mask(eps=1e-12)
        small, silent = small + int(mask.sum()), silent + int((mask & inactive).sum())
    assert small == inner and dead <= silent <= inner
    with torch.no_grad():
        before = classify(model, pixels)
        accuracy = (before.argmax(1) == labels).float().mean().item()
        assert 0.75 <= accuracy <= 0.95, accuracy  # the published net, and not one of its size
        with scales_clamped(model, threshold=1e-3):
            clamped = classify(model, pixels)
        torch.testing.assert_close(clamped, before, rtol=0, atol=1e-4)
        removed = prune_dead_channels(model, pixels.split(50), forward_fn=classify)
        after = classify(model, pixels)
    assert sum(removed.channels_removed.values()) >= dead
    assert 0.04 < 1 - removed.macs_after / removed.macs_before < 0.06
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def read_cifar_test_pictures(archive, per_class):
    """The first ``per_class`` test pictures of each class.

    (N, 32, 32, 3) uint8 and the labels (classes in alphabetical order).
    """
    by_class = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and parts[-3] == 'test':
                by_class.setdefault(parts[-2], {})[parts[-1]] = tar.extractfile(member).read()
    pictures, labels = [], []
    for label, name in enumerate(sorted(by_class)):
        for file_name in sorted(by_class[name])[:per_class]:
            with Image.open(io.BytesIO(by_class[name][file_name])) as picture:
                pictures.append(np.asarray(picture.convert('RGB')))
            labels.append(label)
    return np.stack(pictures), torch.tensor(labels)


def test_importing_models_without_mmpretrain_is_fine(monkeypatch):
    """Detection users need not have mmpretrain: the package imports without its part."""
    import mmpsbn.models

    whole = set(mmpsbn.models.__all__)
    real_find_spec = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util,
            'find_spec',
            lambda name, *args: None if name == 'mmpretrain' else real_find_spec(name, *args),
        )
        assert set(importlib.reload(mmpsbn.models).__all__) == (
            whole - {'PUBLISHED_KEYS', 'BasicNet', 'CIFARResNet'}
        )
    assert set(importlib.reload(mmpsbn.models).__all__) == whole
    assert 'CIFARResNet' in whole
