"""The size that MACs are counted on is the config's, whatever the first batch is."""

import pytest
import torch
from mmengine.config import Config
from runs import demp, pruner_of, resume_from, train
from torch import nn
from torch.nn import functional as F
from toy import ToyNet

from mmpsbn.engine import openmmlab
from mmpsbn.engine.input_size import count_at_one_size, noise_images
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.pruning.cost import model_cost


def config(scale=(12, 10)):
    dataset = dict(type='RepeatDataset', dataset=dict(pipeline=[dict(type='Resize', scale=scale)]))
    return Config(dict(test_dataloader=dict(dataset=dataset)))


def macs_and_size(cfg, traced_size, model=None):
    model = model or ToyNet().eval()
    positions, size = count_at_one_size(model, cfg, torch.zeros(1, 3, *traced_size))
    return model_cost(model, positions).macs, size


# stem 8x3 and four 3x3 convolutions 8x12 at each of 120 positions, and the classifier
AT_10_BY_12 = 120 * 9 * (8 * 3 + 4 * 8 * 12) + 8 * 4


@pytest.mark.parametrize('traced_size', [(8, 8), (16, 9)])
def test_macs_are_those_of_the_test_pipelines_size(traced_size):
    assert macs_and_size(config(), traced_size) == (AT_10_BY_12, (10, 12))


def test_a_large_size_is_cropped_as_for_tracing():
    assert macs_and_size(config((1333, 800)), (8, 8))[1] == (256, 256)


@pytest.mark.parametrize('model', [dict(), dict(model=nn.Linear(1, 1)), dict(model=dict(type=1))])
@pytest.mark.parametrize('loader', [None, dict(), dict(dataset=[1, 2])])
def test_where_the_config_says_no_size_it_is_the_traced_one(model, loader):
    assert macs_and_size(Config(dict(model, test_dataloader=loader)), (8, 9))[1] == (8, 9)


class FixedSize(ToyNet):
    def forward(self, inputs, mode='tensor'):
        if inputs.shape[2:] != (8, 8):
            raise AssertionError('8x8 alone')
        return super().forward(inputs, mode=mode)


def test_a_model_that_takes_one_size_alone_is_counted_at_that():
    assert macs_and_size(config(), (8, 8), FixedSize().eval())[1] == (8, 8)


class Focus(ToyNet):
    """Its first convolution reads four pixels of three channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(12, 8, 1)

    def forward(self, inputs, mode='tensor'):
        return self.stem(F.pixel_unshuffle(inputs, 2))


@pytest.mark.parametrize('model, channels', [(Focus(), 3), (1, 1), (3, 3), (5, 5)])
def test_noise_has_the_channels_that_the_model_reads(model, channels):
    model = model if isinstance(model, nn.Module) else Chain(model)
    images = noise_images(model, 2, (8, 8))
    assert images.shape == (2, channels, 8, 8) and images.std() > 0.9
    assert torch.equal(images, noise_images(model, 2, (8, 8)))
    assert len(forward_tensors(model, images)) == 2


class Chain(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 1)
        self.fc = nn.Linear(4 * 64, 2)

    def forward(self, inputs, mode):
        return self.fc(F.relu(self.conv(inputs)).flatten(1))


def test_a_model_of_fixed_input_size_is_traced_uncropped(monkeypatch):
    monkeypatch.setattr(openmmlab, '_MAX_SIDE', 4)
    graph, inputs = trace_at_any_size(Chain(), torch.randn(1, 3, 8, 8))
    assert list(graph.groups) == ['conv'] and inputs.shape[-1] == 8
    graph, inputs = trace_at_any_size(ToyNet(), torch.randn(1, 3, 8, 8))
    assert inputs.shape[-1] == 4


def test_the_hooks_count_at_that_size_and_say_so(tmp_path):
    hooks = [demp(interval=3), dict(type='SparsityHook', interval=2)]
    runner, messages = train(tmp_path, hooks, epochs=2, cfg=config())
    said = '\n'.join(messages)
    for part in (
        'MACs are counted at 10x12;',
        'MACs at 10x12 0.4 M -> ',
        'FLOPs sparsity at 10x12 ',
    ):
        assert part in said
    assert pruner_of(runner).state()['dense']['macs'] == AT_10_BY_12
    # a resumed run goes on as it began, whatever the config says now
    more = resume_from(tmp_path / 'epoch_2.pth')
    resumed, messages = train(tmp_path, hooks, epochs=3, cfg=config((8, 8)), **more)
    assert any('MACs are counted at 10x12;' in m for m in messages)
    assert pruner_of(resumed).state()['dense']['macs'] == AT_10_BY_12
