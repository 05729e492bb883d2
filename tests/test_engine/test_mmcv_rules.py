"""Deformable convolutions and RoI pooling, which mmcv computes out of the tracer's sight."""

import sys

import mmcv
import pytest
import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, RoIAlign, deform_conv2d
from torch import nn
from toy import kill_channels

import mmpsbn  # noqa: F401  registers the rules
from mmpsbn.engine.mmcv_rules import register_mmcv_rules
from mmpsbn.pruning import prune_dead_channels, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with


class Deformed(nn.Module):
    """Two deformable convolutions behind each other, then a region pooled and classified."""

    def __init__(self, groups):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first = ModulatedDeformConv2dPack(8, 12, 3, padding=1, groups=groups)
        self.first_norm = nn.BatchNorm2d(12)
        self.second, self.second_norm = (
            DeformConv2dPack(12, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
        )
        self.pool, self.fc = RoIAlign(2, 1.0), nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.first_norm(self.first(x)).relu()
        x = self.second_norm(self.second(x)).relu()
        region = x.new_tensor([[0, 0.5, 0.5, 3, 3.5]])
        return self.fc(self.pool(x, region).flatten(1))


def deformed(groups=1):
    torch.manual_seed(0)
    model = Deformed(groups).double()
    for layer in (model.first, model.second):
        nn.init.normal_(layer.conv_offset.weight, std=0.2)
    return model.eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def test_macs_of_deformable_convolutions_are_those_of_ordinary_ones():
    model, batch = deformed()
    macs = model_cost(model, count_positions(model, batch, call_with)).macs_of
    assert macs['first'] == 2 * 64 * 12 * 8 * 9
    assert macs['second'] == 2 * 16 * 6 * 12 * 9
    assert macs['first.conv_offset'] == 2 * 64 * 27 * 8 * 9


@pytest.mark.parametrize('groups, groups_left', [(1, 1), (4, 3)])
def test_dead_channels_around_deformable_convolutions_go_without_a_change(groups, groups_left):
    model, batch = deformed(groups)
    kill_channels(model.norm, [0, 1])
    kill_channels(model.first_norm, [0, 1, 2])
    kill_channels(model.second_norm, [4])
    before = model(batch)
    prune_dead_channels(model, [batch], tolerance=1e-12)
    torch.testing.assert_close(model(batch), before, rtol=1e-12, atol=1e-12)
    widths = 6, 9, 5
    layers = model.norm, model.first_norm, model.second_norm
    assert tuple(layer.num_features for layer in layers) == widths
    assert (len(model.stem.weight), len(model.first.weight), len(model.second.weight)) == widths
    macs = model_cost(model, count_positions(model, batch, call_with)).macs_of
    assert macs['first'] == 2 * 64 * 9 * 6 * 9 // groups_left
    assert macs['second'] == 2 * 16 * 5 * 9 * 9


class Sampled(nn.Module):
    """Positions are sampled by a deformable convolution with weights of 1, as in TOOD, while other
    channels are there that are read later."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.boxes, self.offsets = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6 * 2, 1)

    def forward(self, x):
        y, boxes = self.stem(x).relu(), self.boxes(x)
        weight = x.new_ones(6, 1, 1, 1)
        boxes = deform_conv2d(boxes, self.offsets(x), weight, 1, 0, 1, 6, 6)
        return self.head(y), boxes.exp().sum(1)


def test_a_deformable_convolution_by_a_function_holds_what_it_reads_alone():
    torch.manual_seed(0)
    graph = trace_channel_graph(Sampled().double(), deformed()[1], call_with)
    assert list(graph.groups) == ['stem']
    assert 'groups of offsets' in graph.skipped['boxes']
    assert 'offsets of a deformable' in graph.skipped['offsets']


def test_an_mmcv_without_its_operations_is_passed_over(monkeypatch):
    monkeypatch.delattr(mmcv, 'ops')
    monkeypatch.delitem(sys.modules, 'mmcv.ops')
    monkeypatch.setattr(mmcv, '__path__', [])
    register_mmcv_rules()
