"""Attributes around layers that repeat a width follow, or are listed; never wrong in silence."""

import copy

import pytest
import torch
from draws import generator
from mmpretrain.models import MobileOne, RepVGG
from nets import Dynamic
from torch import nn

from mmpsbn.pruning import apply_plan, prune_dead_channels, trace_channel_graph
from mmpsbn.pruning.repeated_sizes import repeated_sizes

X = torch.randn(2, 3, 32, 32, generator=generator(), dtype=torch.float64)
exact = dict(rtol=1e-10, atol=1e-10)


def sizes_of(model):
    """Every integer attribute of every module."""
    return {
        f'{name}.{key}': value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if type(value) is int
    }


def repvgg():
    arch = dict(num_blocks=[1, 2, 2, 1], width_factor=[0.25] * 4, group_layer_map={3: 2})
    return RepVGG(arch | dict(se_cfg=None), base_channels=48, out_indices=(3,))


def mobileone():
    arch = dict(num_blocks=[1, 2, 1, 1], width_factor=[0.25] * 4, num_se_blocks=[0] * 4)
    return MobileOne(arch | dict(num_conv_branches=[2, 2, 1, 1]), out_indices=(3,))


def with_dead_channels(make):
    torch.manual_seed(0)
    model = make().double()
    model.eval()
    with torch.no_grad():
        for norm in model.modules():  # the same third of every norm of a width is dead
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 2), norm.bias.normal_()
                dead = norm.num_features // 3
                norm.weight[:dead], norm.bias[:dead] = 0, 0
    return model


@pytest.mark.parametrize('make', [repvgg, mobileone])
def test_a_pruned_net_is_switched_to_deployment(make):
    model = with_dead_channels(make)
    dense = copy.deepcopy(model)
    want = model(X)[-1]
    result = prune_dead_channels(model, [X])
    assert sum(result.channels_removed.values()) > 10 and result.sizes_followed
    replayed = copy.deepcopy(dense)
    apply_plan(replayed, result.plan)()  # and undone
    assert sizes_of(replayed) == sizes_of(dense) != sizes_of(model)
    apply_plan(replayed, result.plan)  # as a checkpoint of it is loaded
    assert sizes_of(replayed) == sizes_of(model)
    for pruned in (model, replayed):
        torch.testing.assert_close(pruned(X)[-1], want, **exact)
        pruned.switch_to_deploy()
        torch.testing.assert_close(pruned(X)[-1], want, **exact)
        for block in pruned.modules():
            if hasattr(block, 'branch_reparam'):
                layer = block.branch_reparam
                widths = (layer.out_channels, layer.in_channels // layer.groups)
                assert layer.weight.shape[:2] == widths


class Blocks(nn.Sequential):
    """A container of one's own: torch's keep what they have."""


class Classifier(nn.Module):
    """As timm's: ``num_features`` is what ``reset_classifier`` builds the new layer from."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.num_features = self.width = 8
        self.blocks = Blocks(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)
        )
        self.fc = nn.Linear(8, 5)
        for layer, dead in ((self.blocks[0], 1), (self.blocks[2], 2), (self.blocks[4], 3)):
            layer.weight.data[:dead], layer.bias.data[:dead] = 0, -1
            layer.weight.data[dead:] *= 0.1
            layer.bias.data[dead:] = 1
        self.double()

    def forward(self, x):
        return self.fc(self.blocks(x).relu().mean((2, 3)))

    def reset_classifier(self, classes):
        self.fc = nn.Linear(self.num_features, classes).double()


def test_a_classifier_is_built_anew_for_the_width_that_is_left():
    model = Classifier()
    result = prune_dead_channels(model, [X])
    assert result.channels_removed == {'blocks.0': 1, 'blocks.2': 2, 'blocks.4': 3}
    assert result.sizes_followed == {'num_features': (8, 5)}
    assert set(result.sizes_left) == {'width'}
    model.reset_classifier(7)
    assert model(X).shape == (2, 7)
    assert model.width == 8  # a name that does not say of what it is a width


def test_what_could_be_one_of_several_widths_is_left_and_listed():
    model = Classifier()
    model.blocks.in_channels = model.blocks.channels = 8
    model.blocks.out_channels = 6  # nothing within is as wide
    result = prune_dead_channels(model, [X])
    assert result.sizes_left.pop('width').keys() > result.sizes_left['blocks.channels'].keys()
    assert result.sizes_left == {
        'blocks.in_channels': {'blocks.2': 7, 'blocks.4': 6},
        'blocks.channels': {
            'blocks.0 outputs': 7,
            'blocks.2 inputs': 7,
            'blocks.2 outputs': 6,
            'blocks.4 inputs': 6,
            'blocks.4 outputs': 5,
        },
    }
    assert (model.blocks.in_channels, model.blocks.out_channels) == (8, 6)


def test_what_a_plan_leaves_alone_is_no_news():
    model = Classifier()
    for layer in (model.blocks[2], model.blocks[4]):
        nn.init.uniform_(layer.weight, 0.1, 1)
        nn.init.ones_(layer.bias)
    model.blocks.add_module('tail', nn.Sequential())
    model.blocks.tail.in_channels = 8
    result = prune_dead_channels(model, [X])
    assert result.channels_removed == {'blocks.0': 1}
    assert result.sizes_followed == {} and set(result.sizes_left) == {'width'}
    assert repeated_sizes(model, result.plan.__class__({}, {})) == []


class OtherNames(nn.Module):
    """Widths under names that are in no table; of 8 channels 2 are dead, of 6 none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inplanes = self.head_hidden_size = self.hidden_features = self.base_width = 8
        self.planes, self.bias_size, self.depth = 6, True, 8
        self.in_channels = [3, 8]
        self.stage_dims = (8, 6, 8)
        self.conv, self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        self.conv.weight.data[:2], self.conv.bias.data[:2] = 0, -1
        self.last.weight.data.abs_(), self.last.bias.data.fill_(1)
        self.double()

    def forward(self, x):
        return self.fc(self.last(self.conv(x).relu()).relu().mean((2, 3)))


def test_widths_under_other_names_and_in_lists_are_listed():
    model = OtherNames()
    result = prune_dead_channels(model, [X])
    assert result.channels_removed == {'conv': 2} and result.sizes_followed == {}
    names = ['inplanes', 'head_hidden_size', 'hidden_features', 'base_width', 'in_channels[1]']
    names += ['stage_dims[0]', 'stage_dims[2]']
    assert result.sizes_left == dict.fromkeys(names, {'conv outputs': 6, 'last inputs': 6})
    assert (model.inplanes, model.in_channels, model.stage_dims) == (8, [3, 8], (8, 6, 8))


def test_channels_go_through_a_split_by_an_attribute_that_follows():
    torch.manual_seed(0)
    model = Dynamic().double().eval()
    norm = model.stem[1]
    norm.weight.data[:2], norm.bias.data[:2] = 0, 0
    slopes = model.slopes.excite  # of the two that are 0: they stay so
    for row in (0, 1, 6, 7, 12, 13, 18, 19):
        slopes.weight.data[row], slopes.bias.data[row] = 0, 0
    with torch.no_grad():
        before = model(X)
        assert prune_dead_channels(model, [X]).channels_removed['stem.0'] == 2
        torch.testing.assert_close(model(X), before, **exact)
    assert (model.slopes.channels, slopes.out_channels) == (4, 16)


def test_a_split_by_a_number_leaves_channels_whole():
    model = Dynamic().double().eval()
    del model.slopes.channels
    type(model.slopes).channels = 6  # of no instance, so nobody keeps it up
    try:
        graph = trace_channel_graph(model, X, lambda model, x: model(x))
    finally:
        del type(model.slopes).channels
    assert 'stem.0' not in graph.groups
    assert 'a split into fixed sizes' in graph.skipped['slopes.excite']


class SplitInTraining(nn.Module):
    """Has the width in an attribute, and no layer that has it: nobody keeps it up."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        first, second = x.split(self.channels, dim=1)
        return first * second


@pytest.mark.parametrize('channels', [8, torch.tensor(8)])
def test_an_attribute_that_surgery_does_not_know_is_a_number(channels):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SplitInTraining(channels), nn.Conv2d(8, 4, 1))
    graph = trace_channel_graph(model, X.float(), lambda model, x: model(x))
    assert '0' not in graph.groups and 'a split into fixed sizes' in graph.skipped['0']
