"""ResNets with other activations."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

import mmpsbn.models.activation_resnet  # noqa: F401  registers it

SMALL = dict(depth=18, base_channels=4, stem_channels=4)


def net(**settings):
    torch.manual_seed(0)
    model = MODELS.build(dict(SMALL, **settings))
    model.eval()
    return model


@pytest.mark.parametrize(
    'act_cfg, kind',
    [
        (dict(type='LeakyReLU', negative_slope=0.05), nn.LeakyReLU),
        (dict(type='SiLU'), nn.SiLU),
    ],
)
def test_the_activation_is_in_all_places_of_the_relu(act_cfg, kind):
    model = net(type='ActivationResNetCIFAR', act_cfg=act_cfg)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(kind) == 1 + 8 and nn.ReLU not in kinds  # the stem's, one a block


def test_with_relu_it_is_mmpretrains_own():
    ours = net(type='ActivationResNetCIFAR', act_cfg=dict(type='ReLU'))
    theirs = net(type='ResNet_CIFAR')
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images)[0], theirs(images)[0])
