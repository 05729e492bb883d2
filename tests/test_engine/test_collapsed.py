"""DemPHook with criterion='collapsed': constants are folded in the model and in its average."""

import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F
from toy import kill_channels, toy_runner

from mmpsbn.engine import DemPHook
from mmpsbn.engine.runner_parts import averaged_models_of


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


@pytest.mark.parametrize('criterion, channels', [('dead', 8), ('collapsed', 6)])
def test_collapsed_channels_go_and_what_they_emit_stays(tmp_path, criterion, channels):
    hook = DemPHook(
        penalty=dict(peak=0.0),
        noise=dict(peak_std=0.0),
        prune=dict(interval=3, num_samples=16, criterion=criterion, tolerance=1e-10),
    )
    runner = toy_runner(
        tmp_path,
        hooks=[hook, dict(type='EMAHook', momentum=0.2)],
        iters=3,
        model=dict(type='Bottleneck'),
        dtype=torch.float64,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
    )
    before = {}
    prune = hook.pruner.prune

    def spy(runner, data_batch):
        for model in (runner.model, *averaged_models_of(runner)):
            model.bn1.weight.data[[2, 5]] = 0
        before.update(model=copy.deepcopy(runner.model))
        before.update(average=copy.deepcopy(averaged_models_of(runner)[0]))
        prune(runner, data_batch)
        before.update(
            pruned=[copy.deepcopy(m) for m in (runner.model, *averaged_models_of(runner))]
        )

    hook.pruner.prune = spy
    runner.train()
    unseen = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for pruned, dense in zip(before['pruned'], (before['model'], before['average'])):
        assert pruned.conv1.out_channels == pruned.bn1.num_features == channels
        torch.testing.assert_close(
            pruned.eval()(unseen), dense.eval()(unseen), rtol=1e-10, atol=1e-10
        )
    assert dense.bn1.bias[2] != 0  # it emitted alpha


def test_what_has_collapsed_in_the_model_alone_stays_and_each_folds_its_own_constant(tmp_path):
    prune = dict(interval=3, num_samples=16, criterion='collapsed', tolerance=1e-10)
    hook = DemPHook(penalty=dict(peak=0.0), noise=dict(peak_std=0.0), prune=prune)
    runner = toy_runner(
        tmp_path,
        hooks=[hook, dict(type='EMAHook', momentum=0.2)],
        iters=3,
        model=dict(type='Bottleneck'),
        dtype=torch.float64,
    )
    widths, prune = [], hook.pruner.prune

    @torch.no_grad()
    def spy(runner, data_batch):
        models = [runner.model, *averaged_models_of(runner)]
        for model, constant, gamma_of_5 in zip(models, (0.5, 0.8), (0.0, 1.0)):
            model.bn1.weight[2], model.bn1.weight[5] = 0.0, gamma_of_5
            model.bn1._parameters['bias'][[2, 5]] = constant
        want = copy.deepcopy(models)
        prune(runner, data_batch)
        unseen = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        for model, dense in zip(models, want):
            widths.append(model.conv1.out_channels)
            torch.testing.assert_close(model.eval()(unseen), dense.eval()(unseen))
        runner.model.train()

    hook.pruner.prune = spy
    runner.train()
    assert widths == [7, 7]


def test_one_channel_that_fails_the_check_holds_none_back_and_may_go_at_a_later_event(tmp_path):
    """Channel 5 has |gamma| = 8e-4 and readers that make much of it, up to the second event."""
    prune = dict(interval=2, num_samples=8, criterion='collapsed', tolerance=1e-7)
    hook = DemPHook(penalty=dict(peak=0.0), noise=dict(peak_std=0.0), prune=prune)
    runner = toy_runner(
        tmp_path,
        hooks=[hook, dict(type='EMAHook', momentum=0.2)],
        iters=4,
        model=dict(type='Bottleneck'),
        dtype=torch.float64,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
    )
    kill_channels(runner.model.bn1, [0, 1, 3])
    with torch.no_grad():
        runner.model.bn1.weight[5], runner.model.conv2.weight[:, 5] = 8e-4, 1e3
    widths, prune = [], hook.pruner.prune

    def spy(runner, data_batch):
        prune(runner, data_batch)
        widths.append(runner.model.conv1.out_channels)
        for model in (runner.model, *averaged_models_of(runner)):
            model.bn1.weight.data[model.bn1.weight.abs() == 8e-4] = 0

    hook.pruner.prune = spy
    runner.train()
    # the dead at once; 2, whose constant is alpha, is no exact zero; then both
    assert widths == [5, 3]
    (average,) = averaged_models_of(runner)
    assert average.conv1.out_channels == 3
