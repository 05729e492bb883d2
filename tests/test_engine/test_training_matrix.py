"""A run that prunes ends as the run in which the same channels are dead but stay.

Channels are killed after some training, so that their gradients, momenta and averages are
there when the event cuts them: a dead channel is one masked to zero, with its gradients
blocked.
"""

from functools import partial

import mmdet.models  # noqa: F401  registers its backbones
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.utils import digit_version
from mmengine.utils.dl_utils import TORCH_VERSION
from runs import demp, pruner_of, train
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels
from twin import assert_equals_twin, assert_state_equals_twin

from mmpsbn.engine.runner_parts import averaged_models_of, bare_model, optimizers_of

CLOSE = dict(rtol=1e-9, atol=1e-12)
# one inner channel group, and the residual stream
DEAD = {'blocks.0.bn1': [1, 3, 5], 'norm': [2], 'blocks.0.bn2': [2], 'blocks.1.bn2': [2]}
SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)


@HOOKS.register_module(force=True)
class KillAt(Hook):
    """Makes channels dead before an iteration; what their gradients left cannot revive them."""

    priority = 'HIGH'

    def __init__(self, iteration, channels):
        self.iteration, self.channels = iteration, channels

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            for name, index in self.channels.items():
                layer = bare_model(runner).get_submodule(name)
                kill_channels(layer, index)
                with torch.no_grad():
                    layer._parameters['bias'][index] = -10.0


def pruned_and_twin(tmp_path, hooks=(), dead=DEAD, dtype=torch.float64, settings=dict, **kwargs):
    """The two runs, done, and the plan of the first. ``settings()``: what each run has for
    itself."""
    runners = []
    for name, prunes in (('pruned', [demp()]), ('twin', [])):
        torch.manual_seed(0)
        kill = dict(type='KillAt', iteration=3, channels=dead)
        own = dict(kwargs, dtype=dtype, epochs=3, **settings())
        runners.append(train(tmp_path / name, [*prunes, kill, *hooks], **own)[0])
    plan = pruner_of(runners[0]).structure.plan
    norms = [name for name in plan.kept if name.endswith('running_mean')]
    assert sorted(norms) == sorted(f'{name}.running_mean' for name in dead)
    for name, index in dead.items():
        key = f'{name}.running_mean'
        assert len(plan.kept[key][0]) == plan.shapes[key][0] - len(index)
    return *runners, plan


def assert_equal_runs(pruned, twin, plan, **tolerance):
    tolerance = tolerance or CLOSE
    models = [bare_model(pruned), bare_model(twin)]
    assert_equals_twin(*models, plan, **tolerance)
    for optimizers in zip(optimizers_of(pruned), optimizers_of(twin)):
        assert_state_equals_twin(*optimizers, *models, plan, **tolerance)
    for averages in zip(averaged_models_of(pruned), averaged_models_of(twin)):
        assert_equals_twin(*averages, plan, **tolerance)


OPTIM_WRAPPERS = {
    'momentum': dict(optimizer=SGD),
    'adamw': dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1)),
    'param groups': dict(
        optimizer=SGD,
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'blocks.0': dict(lr_mult=0.1)}),
    ),
    'accumulation': dict(optimizer=SGD, accumulative_counts=4),  # the event amid gradients
    'clipping': dict(optimizer=SGD, clip_grad=dict(max_norm=0.1)),
}


@pytest.mark.parametrize('norm', ['BN', 'psBN'])
@pytest.mark.parametrize('kind', OPTIM_WRAPPERS)
def test_optim_wrappers(tmp_path, kind, norm):
    runs = pruned_and_twin(tmp_path, optim_wrapper=OPTIM_WRAPPERS[kind], norm=norm)
    assert_equal_runs(*runs)


@pytest.mark.parametrize('norm', ['BN', 'psBN'])
@pytest.mark.parametrize('update_buffers', [True, False])
def test_averaged_models(tmp_path, norm, update_buffers):
    # half of the way each step: the dead are soon dead in the average too
    ema = dict(type='EMAHook', momentum=0.5, update_buffers=update_buffers)
    pruned, twin, plan = pruned_and_twin(tmp_path, [ema], norm=norm)
    assert len(averaged_models_of(pruned)) == 1
    assert_equal_runs(pruned, twin, plan)


@MODELS.register_module(force=True)
class BackboneNet(BaseModel):
    """An mmdet ResNet and a classifier, float64."""

    def __init__(self, **backbone):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.backbone = MODELS.build(
            dict(
                type='mmdet.ResNet',
                depth=18,
                stem_channels=4,
                base_channels=4,
                num_stages=2,
                strides=(1, 1),
                dilations=(1, 1),
                out_indices=(1,),
                init_cfg=None,
                **backbone,
            )
        )
        self.fc = nn.Linear(8, 4)
        self.double()

    def init_weights(self):
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.3)
                nn.init.ones_(module.bias)  # no channel is dead by chance

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.backbone(inputs)[0].mean((2, 3)))
        return dict(loss=F.cross_entropy(logits, labels)) if mode == 'loss' else logits


@pytest.mark.parametrize(
    'backbone',
    [
        dict(frozen_stages=1, norm_eval=True),
        dict(frozen_stages=1, norm_eval=False),
        dict(frozen_stages=-1, norm_eval=True),
        dict(frozen_stages=-1, norm_eval=False, with_cp=True),
        dict(frozen_stages=1, norm_eval=True, with_cp=True),
    ],
    ids=lambda backbone: ' '.join(f'{k}={v}' for k, v in backbone.items()),
)
def test_frozen_stages_norm_eval_and_activation_checkpointing(tmp_path, backbone):
    dead = {
        'backbone.layer1.0.bn1': [0, 2],  # within the frozen stage, where there is one
        'backbone.layer2.0.bn1': [1, 3, 5],
        'backbone.layer2.1.bn1': [7],
    }
    pruned, twin, plan = pruned_and_twin(
        tmp_path, dead=dead, model=dict(type='BackboneNet', **backbone)
    )
    frozen = pruned.model.backbone.layer1[0].conv1.weight
    assert frozen.requires_grad == (backbone['frozen_stages'] < 1)
    assert_equal_runs(pruned, twin, plan)


class TwoOptimizersNet(ToyNet):
    def train_step(self, data, optim_wrapper):
        loss = self(**self.data_preprocessor(data, True), mode='loss')['loss']
        for wrapper in optim_wrapper.values():
            wrapper.zero_grad()
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return dict(loss=loss.detach())


def test_a_dict_of_optim_wrappers(tmp_path):
    def settings():
        model = TwoOptimizersNet(dtype=torch.float64)
        body, rest = list(model.blocks.parameters()), [model.stem.weight, *model.norm.parameters()]
        optimizers = dict(
            body=torch.optim.SGD(body, lr=0.05, momentum=0.9),
            rest=torch.optim.AdamW([*rest, *model.fc.parameters()], lr=0.01),
        )
        wrappers = {name: OptimWrapper(optimizer) for name, optimizer in optimizers.items()}
        return dict(model=model, optim_wrapper=OptimWrapperDict(**wrappers))

    pruned, twin, plan = pruned_and_twin(tmp_path, settings=settings)
    assert len(optimizers_of(pruned)) == 2
    assert_equal_runs(pruned, twin, plan)


class OverflowNet(ToyNet):
    """Its loss is infinite now and then."""

    calls = 0

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode == 'loss':
            self.calls += 1
            out['loss'] = out['loss'] * (float('inf') if self.calls in (2, 6, 9) else 1)
        return out


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='GradScaler is CUDA-only here')
@pytest.mark.parametrize('bfloat16', [False, True])
def test_amp(tmp_path, monkeypatch, bfloat16):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    # autocast leaves float64 alone
    dtype = torch.float32 if bfloat16 else torch.float64
    wrapper = dict(
        type='AmpOptimWrapper',
        optimizer=SGD,
        dtype='bfloat16',
        loss_scale=dict(init_scale=2.0**8, growth_interval=3),
        clip_grad=dict(max_norm=1.0),
    )
    pruned, twin, plan = pruned_and_twin(
        tmp_path,
        dtype=dtype,
        optim_wrapper=wrapper,
        settings=lambda: dict(model=OverflowNet(dtype=dtype)),
    )
    scalers = [runner.optim_wrapper.loss_scaler.state_dict() for runner in (pruned, twin)]
    assert scalers[0] == scalers[1] and scalers[0]['scale'] < 2**8
    assert_equal_runs(pruned, twin, plan, **(dict(rtol=1e-3, atol=1e-3) if bfloat16 else CLOSE))


@pytest.mark.skipif(
    digit_version(TORCH_VERSION) < digit_version('2.2'), reason='DemPHook refuses compile here'
)
@pytest.mark.parametrize('for_real', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_run_is_compiled_anew(tmp_path, monkeypatch, for_real):
    compiled, compile_ = [], torch.compile if for_real else lambda function, **_: function

    def counting(*args, **kwargs):
        compiled.append(args)
        return compile_(*args, **kwargs)

    monkeypatch.setattr(torch, 'compile', counting)
    cfg = dict(compile=dict(backend='eager'))
    ema = dict(type='EMAHook', momentum=0.5)
    runs = pruned_and_twin(tmp_path, [ema], settings=lambda: dict(cfg=cfg))
    # by MMEngine twice; behind the first iteration, which is watched, and the first event
    assert len(compiled) == 4
    assert_equal_runs(*runs)
