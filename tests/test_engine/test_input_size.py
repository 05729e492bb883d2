"""The size that MACs are counted on is the config's, whatever the first batch is."""

import copy

import pytest
import torch
from mmengine.config import Config
from test_demp_hook import QUIET, demp, demp_hook_of
from test_sparsity_hook import train
from torch import nn
from toy import ToyNet

from mmpsbn.engine.input_size import count_at_one_size
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


def test_the_hooks_count_at_that_size_and_say_so(tmp_path):
    hooks = [dict(demp(interval=3), **QUIET), dict(type='SparsityHook', interval=2)]
    runner, messages = train(tmp_path / 'whole', copy.deepcopy(hooks), epochs=2, cfg=config())
    said = '\n'.join(messages)
    for part in (
        'MACs are counted at 10x12;',
        'MACs at 10x12 0.4 M -> ',
        'FLOPs sparsity at 10x12 ',
    ):
        assert part in said
    assert demp_hook_of(runner).pruner.state()['dense']['macs'] == AT_10_BY_12
    # a resumed run goes on as it began
    resumed, messages = train(
        tmp_path / 'resumed',
        copy.deepcopy(hooks),
        prepare=lambda runner: None,
        epochs=3,
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_2.pth'),
    )
    assert any('MACs are counted at 10x12;' in m for m in messages)
    assert demp_hook_of(resumed).pruner.state()['dense']['macs'] == AT_10_BY_12
