"""DemPHook in a run: it acts, it removes, what it removes is verified, and the run resumes."""

import copy
import dataclasses
import random

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODEL_WRAPPERS, MODELS, OPTIMIZERS
from mmpretrain.models import VisionTransformer
from runs import (
    EMA,
    around_events,
    assert_resumes,
    demp,
    inner_widths,
    killing,
    pruner_of,
    resume_from,
    state_of,
    train,
)
from snapshots import assert_same
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine import openmmlab
from mmpsbn.engine.demp import online_pruner
from mmpsbn.layers import calls_step_hooks
from mmpsbn.pruning import VerificationError

DEAD = [1, 3, 5]
ACTIVE = dict(penalty=0.01, noise=1e-4)


def test_penalty_and_noise_act_in_a_run(tmp_path):
    quiet, loud, noisy = (
        train(tmp_path / str(i), [demp(**peaks)], killing(DEAD))[0].model
        for i, peaks in enumerate((dict(), dict(penalty=0.5), dict(noise=0.03)))
    )
    scales = [model.blocks[1].bn1.weight.detach().abs().sum() for model in (loud, quiet)]
    assert scales[0] < 0.9 * scales[1]
    assert not torch.equal(noisy.stem.weight, quiet.stem.weight)
    assert noisy.fc.weight.isfinite().all()


# --- resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize('norm', ['BN', 'psBN'])
@pytest.mark.parametrize('epoch', [1, 2, 3])  # before, between and after events at 6, 12
def test_a_resumed_run_ends_bit_equal(tmp_path, norm, epoch):
    hooks = [demp(**ACTIVE), dict(EMA, update_buffers=True)]
    assert_resumes(tmp_path, hooks, killing(DEAD), at=f'epoch_{epoch}.pth', norm=norm)


def test_a_run_resumed_within_an_accumulation_goes_on(tmp_path):
    wrapper = dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=5)
    hooks, arguments = [demp(interval=9, num_samples=8)], dict(optim_wrapper=wrapper, epochs=3)
    # 8 iterations; the next step is that of the 10th. Its gradients are lost: no bit equality
    whole, _ = train(tmp_path / 'whole', hooks, killing([1, 3]), **arguments)
    arguments |= resume_from(tmp_path / 'whole/epoch_2.pth')
    resumed, _ = train(tmp_path / 'resumed', hooks, **arguments)
    assert inner_widths(whole.model) == inner_widths(resumed.model) == [10, 12]


def kill_all_but_one(runner):
    killing(range(1, 12), range(1, 12))(runner)
    for norm in (runner.model.norm, *(block.bn2 for block in runner.model.blocks)):
        kill_channels(norm, range(1, 8))


def test_layers_go_down_to_one_channel_and_the_run_goes_on(tmp_path):
    """Such a layer is no group any more: nothing is left to be chosen in it."""
    hooks = [demp(noise=1e-3, allow_live=True), dict(type='SparsityHook', interval=1)]
    # the event was at iteration 6
    whole = assert_resumes(tmp_path, hooks, kill_all_but_one, at='epoch_2.pth')
    assert [block.conv1.weight.shape[:2] for block in whole.model.blocks] == [(1, 1), (1, 1)]
    assert pruner_of(whole).progress.left['channels'] == pytest.approx(3 / 32)


class AttentiveHead(nn.Module):
    """One query, two keys and values."""

    def __init__(self, channels, classes):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        keys = torch.stack([x, x.flip(-1)], 1)
        return self.fc(self.attention(x[:, None], keys, keys)[0].squeeze(1))


@MODELS.register_module(force=True)
class AttentiveNet(ToyNet):
    def __init__(self, width=8, classes=4, **kwargs):
        super().__init__(width=width, classes=classes, **kwargs)
        self.fc = AttentiveHead(width, classes)


def test_a_run_with_attention_resumes(tmp_path):
    model = dict(type='AttentiveNet')
    whole = assert_resumes(tmp_path, [demp()], killing(DEAD), at='epoch_2.pth', model=model)
    assert pruner_of(whole).progress.left['macs'] < 1


# --- what is verified ----------------------------------------------------------------------


@pytest.fixture
def wrong_graph(monkeypatch):
    """The trace says that the second block reads what the first one's inner layer writes."""
    trace = online_pruner.trace_channel_graph

    def wrong_trace(*args):
        graph = trace(*args)
        graph.groups['blocks.0.conv1'] = dataclasses.replace(
            graph.groups['blocks.0.conv1'], readers=graph.groups['blocks.1.conv1'].readers
        )
        return graph

    for module in (openmmlab, online_pruner):
        monkeypatch.setattr(module, 'trace_channel_graph', wrong_trace)


def test_what_verification_refuses_stays_and_training_goes_on(tmp_path, wrong_graph):
    runner, messages = train(tmp_path, [demp()], killing(DEAD, [0, 2]))
    assert inner_widths(runner.model) == [12, 10]
    assert runner.model.blocks[0].conv2.weight.shape == (8, 12, 3, 3)
    assert any('at this event what was not exactly 0 stays there' in m for m in messages)


def test_a_run_that_is_to_stop_there_leaves_all_bit_for_bit(tmp_path, wrong_graph):
    before = {}

    def state(runner):
        return copy.deepcopy([*state_of(runner), torch.get_rng_state(), random.getstate()])

    note = around_events(lambda runner: before.update(runner=runner, state=state(runner)))
    hooks = [demp(on_failure='stop'), EMA]
    with pytest.raises(VerificationError, match=r"removing \['blocks.0.conv1'\] changes the outp"):
        train(tmp_path, hooks, killing(DEAD, [0, 2]), note)
    assert_same(state(before['runner']), before['state'])


def test_an_event_that_finds_nothing_changes_nothing(tmp_path):
    runner, _ = train(tmp_path, [demp()])
    assert inner_widths(runner.model) == [12, 12]
    meta = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)['meta']['mmpsbn']
    assert meta['plan']['tensors'] == {}


# --- the optimizer's steps -------------------------------------------------------------------


@pytest.mark.parametrize('hook', [demp(), dict(type='DemPHook', budget=dict(flops=0.5))])
def test_step_hooks_that_do_not_run_are_noticed_before_the_first_step(tmp_path, monkeypatch, hook):
    runner = toy_runner(tmp_path, [hook])
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    unwrapped = torch.optim.SGD.step.__wrapped__  # as torch 2.1 does at the first torch.compile
    monkeypatch.setattr(unwrapped, 'hooked', True, raising=False)
    monkeypatch.setattr(torch.optim.SGD, 'step', unwrapped)
    with pytest.raises(RuntimeError, match='calls no step hooks, in which DemPHook acts: torch 2'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'AdamW', 'RMSprop', 'LBFGS'])
def test_whether_step_hooks_run_is_found_out_without_a_step(kind):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, kind)([parameter], lr=0.1)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append('hook'))
    parameter.grad = torch.ones(3)
    assert calls_step_hooks(optimizer) and not called
    assert parameter.tolist() == [1, 1, 1] and not optimizer.state
    assert optimizer.param_groups[0]['params'] == [parameter]


def test_a_finished_run_leaves_no_hook_behind(tmp_path):
    runner, _ = train(tmp_path, [demp(interval=12, num_samples=99)])
    optimizer = runner.optim_wrapper.optimizer
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not [m for m in runner.model.modules() if m._forward_pre_hooks]


# --- what is refused before the first step ---------------------------------------------------


@MODELS.register_module(force=True)
class NoNorm(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 6))

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.body(inputs).flatten(1)
        return dict(loss=logits.square().mean()) if mode == 'loss' else logits


def freeze_norms(runner):
    for layer in runner.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)


@OPTIMIZERS.register_module(force=True)
class MasterCopies(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__([nn.Parameter(p.detach().clone()) for p in params], **kwargs)


@MODEL_WRAPPERS.register_module(force=True)
class Sharded(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def train_step(self, *args):
        raise AssertionError('a step was taken')


def shard(runner):
    runner.model = Sharded(runner.model)


ACTS = demp(penalty=0.1)
COPIES = dict(optim_wrapper=dict(optimizer=dict(type='MasterCopies', lr=0.1)))


@pytest.mark.parametrize(
    'hooks, prepare, kwargs, error, message',
    [
        ([ACTS], None, dict(model=dict(type='NoNorm')), ValueError, r'DemPHook .*NoNorm has 0'),
        (
            [dict(type='SparsityHook')],
            None,
            dict(model=dict(type='NoNorm')),
            ValueError,
            r'SparsityHook .*scales \(gamma\).*NoNorm has',
        ),
        ([ACTS], freeze_norms, {}, ValueError, '5 such layers, none of them trainable'),
        ([ACTS], None, COPIES, TypeError, 'norm.weight is trainable but not in the optimizer'),
        ([ACTS], shard, {}, TypeError, 'needs a plain or DDP model, got Sharded'),
        ([demp(interval=17)], None, {}, ValueError, 'no prune event fits into 16 iterations with'),
        (
            [ACTS, dict(type='PrunedCheckpointHook')],
            None,
            {},
            ValueError,
            'take PrunedCheckpointHook out of custom_hooks',
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused(tmp_path, hooks, prepare, kwargs, error, message):
    runner = toy_runner(tmp_path, hooks, **kwargs)
    if prepare:
        prepare(runner)
    with pytest.raises(error, match=message):
        runner.train()
    assert runner.iter == 0 and not list(tmp_path.glob('*.pth'))


@MODELS.register_module(force=True)
class TinyViT(BaseModel):
    """LayerNorm alone; GELU."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
        self.backbone = VisionTransformer(arch, img_size=8, patch_size=4)
        self.head = nn.Linear(16, 4)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.head(self.backbone(inputs)[0])
        return dict(loss=nn.functional.cross_entropy(logits, labels)) if mode == 'loss' else logits


def test_noise_alone_needs_no_scales_and_prunes_the_mlps_of_a_transformer(tmp_path):
    def kill(runner):
        runner.model.init_weights()  # now, and not once more when training starts
        with torch.no_grad():
            runner.model.backbone.layers[0].ffn.layers[0][0].bias[DEAD] = -20.0

    hook = demp(noise=1e-4, eps=1e-2, tolerance=5e-2)
    runner, _ = train(tmp_path, [hook], kill, model=dict(type='TinyViT'), epochs=2)
    linear = {n: m for n, m in runner.model.named_modules() if isinstance(m, nn.Linear)}
    widths = {name: layer.out_features for name, layer in linear.items()}
    assert widths.pop('backbone.layers.0.ffn.layers.0.0') == 24 - len(DEAD)
    assert set(widths.values()) == {16, 24, 48, 4}  # embedding, the other MLP, qkv, classes
