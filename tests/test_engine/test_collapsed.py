"""DemPHook with criterion='collapsed': constants are folded in the model and in its average."""

import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from runs import EMA, around_events, average_of, demp, train
from torch import nn
from torch.nn import functional as F
from toy import kill_channels

from mmpsbn.engine.runner_parts import averaged_models_of

FLOAT64 = dict(model=dict(type='Bottleneck'), dtype=torch.float64)
UNSEEN = torch.randn(4, 3, 8, 8, dtype=torch.float64)


@MODELS.register_module(force=True)
class Bottleneck(BaseModel):
    """psBN between a 3x3 and a 1x1 convolution, whose bias is the norm's behind it."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 6, 1, bias=False)
        self.bn1 = build_norm_layer(dict(type='psBN'), 8)[1]
        self.bn2 = build_norm_layer(dict(type='psBN'), 6)[1]
        self.fc = nn.Linear(6, 4)
        with torch.no_grad():
            self.bn1.weight[[2, 5]] = 0
        self.double()

    def forward(self, inputs, labels=None, mode='tensor'):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs))))))
        logits = self.fc(x.mean((2, 3)))
        return dict(loss=F.cross_entropy(logits, labels)) if mode == 'loss' else logits


def models_of(runner):
    return [runner.model, *averaged_models_of(runner)]


def outputs(model):
    """In eval mode, on what no event has seen."""
    return copy.deepcopy(model).eval()(UNSEEN)


@pytest.mark.parametrize('criterion, channels', [('dead', 8), ('collapsed', 6)])
def test_collapsed_channels_go_and_what_they_emit_stays(tmp_path, criterion, channels):
    dense = []

    def collapse(runner):
        for model in models_of(runner):
            model.bn1.weight.data[[2, 5]] = 0
            assert model.bn1.bias[2] != 0  # it emits alpha
            dense.append(outputs(model))

    def compare(runner):
        for model, expected in zip(models_of(runner), dense):
            assert model.conv1.out_channels == model.bn1.num_features == channels
            torch.testing.assert_close(outputs(model), expected, rtol=1e-10, atol=1e-10)

    hook = demp(interval=3, criterion=criterion, tolerance=1e-10)
    hooks = [hook, dict(EMA, momentum=0.2)]
    train(tmp_path, hooks, around_events(collapse, compare), iters=3, **FLOAT64)
    assert len(dense) == 2


def test_what_has_collapsed_in_the_model_alone_stays_and_each_folds_its_own_constant(tmp_path):
    dense = []

    @torch.no_grad()
    def collapse(runner):
        for model, constant, gamma_of_5 in zip(models_of(runner), (0.5, 0.8), (0.0, 1.0)):
            model.bn1.weight[2], model.bn1.weight[5] = 0.0, gamma_of_5
            model.bn1._parameters['bias'][[2, 5]] = constant
            dense.append(outputs(model))

    def compare(runner):
        for model, expected in zip(models_of(runner), dense):
            assert model.conv1.out_channels == 7
            torch.testing.assert_close(outputs(model), expected)

    hooks = [demp(interval=3, criterion='collapsed', tolerance=1e-10), dict(EMA, momentum=0.2)]
    train(tmp_path, hooks, around_events(collapse, compare), iters=3, **FLOAT64)
    assert len(dense) == 2


def test_one_channel_that_fails_the_check_holds_none_back_and_may_go_at_a_later_event(tmp_path):
    """Channel 5 has |gamma| = 8e-4 and readers that make much of it, up to the second event."""
    widths = []

    @torch.no_grad()
    def kill(runner):
        kill_channels(runner.model.bn1, [0, 1, 3])
        runner.model.bn1.weight[5], runner.model.conv2.weight[:, 5] = 8e-4, 1e3

    def collapse(runner):
        widths.append(runner.model.conv1.out_channels)
        for model in models_of(runner):
            model.bn1.weight.data[model.bn1.weight.abs() == 8e-4] = 0

    prunes = demp(interval=2, num_samples=8, criterion='collapsed', tolerance=1e-7)
    still = dict(optimizer=dict(type='SGD', lr=0.0))
    hooks, events = [prunes, dict(EMA, momentum=0.2)], around_events(after=collapse)
    runner, _ = train(tmp_path, hooks, kill, events, iters=4, optim_wrapper=still, **FLOAT64)
    # the dead at once; 2, whose constant is alpha, is no exact zero; then both
    assert widths == [5, 3]
    assert average_of(runner).conv1.out_channels == 3
