import copy
import dataclasses
import random

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS, MODELS, OPTIMIZERS
from mmpretrain.models import VisionTransformer
from snapshots import assert_same
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine import DemPHook, openmmlab
from mmpsbn.engine.demp import online_pruner
from mmpsbn.pruning import VerificationError

DEAD = [1, 3, 5]
QUIET = dict(penalty=dict(peak=0.0), noise=dict(peak_std=0.0))


def demp(interval=6, num_samples=16, on_failure='continue', **kwargs):
    prune = dict(interval=interval, num_samples=num_samples, on_failure=on_failure)
    return dict(type='DemPHook', prune=prune, **kwargs)


def train(work_dir, hooks, dead=DEAD, prepare=None, **kwargs):
    runner = toy_runner(work_dir, hooks, **kwargs)
    kill_channels(runner.model.blocks[0].bn1, dead)
    if prepare:
        prepare(runner)
    runner.train()
    return runner


def demp_hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, DemPHook))


def alive(channels, dead=DEAD):
    return [c for c in range(channels) if c not in dead]


def test_every_parameter_left_is_in_the_optimizer_with_state_of_its_shape(tmp_path):
    runner = train(tmp_path, [demp()])
    optimizer = runner.optim_wrapper.optimizer
    held = {p for group in optimizer.param_groups for p in group['params']}
    assert runner.model.blocks[0].conv1.weight.shape[0] == 12 - len(DEAD)
    for name, p in runner.model.named_parameters():
        assert p in held, name
        assert optimizer.state[p]['momentum_buffer'].shape == p.shape, name


def test_penalty_and_noise_act_in_a_run(tmp_path):
    quiet = train(tmp_path / 'a', [demp(**QUIET)])
    loud = train(tmp_path / 'b', [demp(penalty=dict(peak=0.5), noise=dict(peak_std=0))])
    noisy = train(tmp_path / 'c', [demp(penalty=dict(peak=0), noise=dict(peak_std=0.03))])

    def scale(runner):
        return float(runner.model.blocks[1].bn1.weight.detach().abs().sum())

    assert scale(loud) < 0.9 * scale(quiet)
    assert not torch.equal(noisy.model.stem.weight, quiet.model.stem.weight)
    assert torch.equal(noisy.model.fc.weight.isfinite(), torch.ones(4, 8, dtype=bool))


def kill_all_but_one(runner):
    kill_channels(runner.model.norm, range(1, 8))
    for block in runner.model.blocks:
        kill_channels(block.bn1, range(1, 12))
        kill_channels(block.bn2, range(1, 8))


def test_layers_go_down_to_one_channel_and_the_run_goes_on(tmp_path):
    """Such a layer is no group any more: nothing is left to be chosen in it."""
    hooks = [
        demp(noise=dict(peak_std=1e-3)),
        dict(type='SparsityHook', interval=1),
    ]
    hooks[0]['prune'].update(allow_live=True)
    whole = train(tmp_path / 'whole', hooks, dead=[], prepare=kill_all_but_one)
    assert [block.conv1.weight.shape[:2] for block in whole.model.blocks] == [(1, 1), (1, 1)]
    pruner = demp_hook_of(whole).pruner
    assert pruner.progress.left['channels'] == pytest.approx(3 / 32)
    resumed = toy_runner(
        tmp_path / 'resumed',
        copy.deepcopy(hooks),
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_2.pth'),  # the event was at iteration 6
    )
    resumed.train()
    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert demp_hook_of(resumed).pruner.progress.left == pruner.progress.left


@pytest.mark.parametrize('norm', ['BN', 'psBN'])
@pytest.mark.parametrize('epoch', [1, 2, 3])  # before, between and after events at 6, 12
def test_a_resumed_run_ends_bit_equal(tmp_path, norm, epoch):
    hooks = [demp(), dict(type='EMAHook', update_buffers=True)]
    whole = train(tmp_path / 'whole', hooks, norm=norm)
    resumed = toy_runner(
        tmp_path / 'resumed',
        copy.deepcopy(hooks),
        norm=norm,
        resume=True,
        load_from=str(tmp_path / f'whole/epoch_{epoch}.pth'),
    )
    resumed.train()
    for get in (
        lambda r: r.model.state_dict(),
        lambda r: next(h.ema_model.state_dict() for h in r.hooks if isinstance(h, EMAHook)),
    ):
        expected = get(whole)
        for name, value in get(resumed).items():
            assert torch.equal(value, expected[name]), name
    states = [r.optim_wrapper.state_dict()['state'] for r in (whole, resumed)]
    for i, state in states[0].items():
        assert torch.equal(state['momentum_buffer'], states[1][i]['momentum_buffer'])


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
    whole = train(tmp_path / 'whole', [demp()], model=model)
    assert demp_hook_of(whole).pruner.progress.left['macs'] < 1
    resumed = toy_runner(
        tmp_path / 'resumed',
        [demp()],
        model=dict(model),
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_2.pth'),
    )
    resumed.train()
    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert demp_hook_of(resumed).pruner.progress.left == demp_hook_of(whole).pruner.progress.left


def test_the_plan_in_a_checkpoint_is_plain_and_safe_to_load(tmp_path):
    train(tmp_path, [demp()], norm='psBN')
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    safe = dict(meta=checkpoint['meta']['mmpsbn'], state_dict=checkpoint['state_dict'])
    torch.save(safe, tmp_path / 'safe.pth')
    loaded = torch.load(tmp_path / 'safe.pth', weights_only=True)
    assert loaded['meta'] == checkpoint['meta']['mmpsbn']
    kept = loaded['meta']['plan']['tensors']['blocks.0.conv1.weight']
    assert kept == dict(shape=[12, 8, 3, 3], kept={'0': alive(12)})


def test_a_pruned_checkpoint_loads_into_a_run_that_does_not_prune(tmp_path):
    runner = train(tmp_path / 'a', [demp()])
    x = torch.randn(2, 3, 8, 8)
    other = toy_runner(tmp_path / 'b', [dict(type='PrunedCheckpointHook')])
    other.load_checkpoint(str(tmp_path / 'a/epoch_4.pth'))
    assert torch.equal(runner.model.eval()(x), other.model.eval()(x))


def test_training_on_without_pruning_keeps_the_plan(tmp_path):
    train(tmp_path / 'a', [demp()])
    kwargs = dict(load_from=str(tmp_path / 'a/epoch_4.pth'), epochs=1)
    toy_runner(tmp_path / 'b', [dict(type='PrunedCheckpointHook')], **kwargs).train()
    a, b = (
        torch.load(tmp_path / name, weights_only=False)['meta']['mmpsbn']['plan']
        for name in ('a/epoch_4.pth', 'b/epoch_1.pth')
    )
    assert a == b


def test_a_pruned_checkpoint_is_refused_where_the_structure_differs(tmp_path):
    train(tmp_path / 'a', [demp()])
    checkpoint = torch.load(tmp_path / 'a/epoch_4.pth', weights_only=False)
    del checkpoint['meta']['mmpsbn']
    torch.save(checkpoint, tmp_path / 'no_plan.pth')
    runner = toy_runner(
        tmp_path / 'b', [demp()], resume=True, load_from=str(tmp_path / 'no_plan.pth')
    )
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(
        ValueError,
        match=r'blocks.0.conv1.weight has shape \(9, 8, 3, 3\) '
        r'in the checkpoint and \(12, 8, 3, 3\) in the model',
    ):
        runner.train()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_dense_checkpoint_is_refused_by_a_pruned_run(tmp_path):
    runner = train(tmp_path / 'a', [demp()])
    train(tmp_path / 'b', [])
    with pytest.raises(
        ValueError,
        match=r'blocks.0.conv1.weight has shape \(12, 8, 3, 3\) '
        r'in the checkpoint and \(9, 8, 3, 3\) in the model',
    ):
        runner.load_checkpoint(str(tmp_path / 'b/epoch_4.pth'))


def test_a_plan_of_another_model_is_refused(tmp_path):
    train(tmp_path / 'a', [demp()])
    other = toy_runner(tmp_path / 'b', [demp()], model=dict(type='ToyNet', inner=16))
    with pytest.raises(
        ValueError,
        match=r'the prune plan expects blocks.0.\S+ of shape .*'
        r'12.* the model has .*16',
    ):
        other.load_checkpoint(str(tmp_path / 'a/epoch_4.pth'))


def test_a_finetuning_run_may_start_from_another_head(tmp_path):
    train(tmp_path / 'a', [demp()])
    checkpoint = torch.load(tmp_path / 'a/epoch_4.pth', weights_only=False)
    checkpoint['state_dict']['fc.weight'] = torch.zeros(7, 8)
    torch.save(checkpoint, tmp_path / 'head.pth')
    toy_runner(tmp_path / 'b', [demp()], load_from=str(tmp_path / 'head.pth'), epochs=2).train()


def test_ema_keeps_the_structure_of_the_model(tmp_path):
    runner = train(tmp_path, [demp(), dict(type='EMAHook')])
    ema = next(h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook))
    for (name, p), q in zip(runner.model.named_parameters(), ema.parameters()):
        assert p.shape == q.shape, name


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


def kill_in_second_block(runner):
    kill_channels(runner.model.blocks[1].bn1, [0, 2])


def test_what_verification_refuses_stays_and_training_goes_on(tmp_path, wrong_graph):
    runner = train(tmp_path, [demp(**QUIET)], prepare=kill_in_second_block)
    assert runner.model.blocks[0].conv1.weight.shape == (12, 8, 3, 3)
    assert runner.model.blocks[0].conv2.weight.shape == (8, 12, 3, 3)
    assert runner.model.blocks[1].conv1.weight.shape == (10, 8, 3, 3)


def test_a_run_that_is_to_stop_there_leaves_all_bit_for_bit(tmp_path, wrong_graph, monkeypatch):
    before = {}

    def state(runner):
        ema = next(h.ema_model for h in runner.hooks if isinstance(h, EMAHook))
        return copy.deepcopy(
            [
                runner.model.state_dict(),
                ema.state_dict(),
                runner.optim_wrapper.state_dict(),
                torch.get_rng_state(),
                random.getstate(),
            ]
        )

    prune = online_pruner.OnlinePruner.prune

    def spy(self, runner, data_batch):
        before.update(runner=runner, state=state(runner))
        prune(self, runner, data_batch)

    monkeypatch.setattr(online_pruner.OnlinePruner, 'prune', spy)
    hooks = [demp(on_failure='stop', **QUIET), dict(type='EMAHook')]
    with pytest.raises(
        VerificationError, match=r"removing \['blocks.0.conv1'\] changes the outputs"
    ):
        train(tmp_path, hooks, prepare=kill_in_second_block)
    assert_same(state(before['runner']), before['state'])


def test_nan_activations_are_never_dead(tmp_path):
    def poison(runner):
        with torch.no_grad():
            runner.model.blocks[1].bn1.weight[4] = float('nan')

    runner = train(tmp_path, [demp(interval=16, **QUIET)], prepare=poison)
    assert runner.model.blocks[1].conv1.weight.shape[0] == 12


class NoNorm(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=dict(type='ToyPreprocessor'))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 6))

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.body(inputs).flatten(1)
        return dict(loss=logits.square().mean()) if mode == 'loss' else logits


def test_a_model_without_scales_is_refused(tmp_path):
    MODELS.register_module(module=NoNorm, force=True)
    for hook, name in ((demp(), 'DemPHook'), (dict(type='SparsityHook'), 'SparsityHook')):
        runner = toy_runner(tmp_path / name, [hook], model=dict(type='NoNorm'))
        with pytest.raises(ValueError, match=rf'{name} .*scales \(gamma\).*NoNorm has'):
            runner.train()


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
    MODELS.register_module(module=TinyViT, force=True)
    hook = demp(penalty=dict(peak=0.0), noise=dict(peak_std=1e-4))
    hook['prune'].update(eps=1e-2, tolerance=5e-2)
    runner = toy_runner(tmp_path, [hook], model=dict(type='TinyViT'), epochs=2)
    runner.model.init_weights()  # now, and not once more when training starts
    hidden = runner.model.backbone.layers[0].ffn.layers[0][0]
    with torch.no_grad():
        hidden.bias[DEAD] = -20.0
    runner.train()
    widths = {
        name: m.out_features for name, m in runner.model.named_modules() if isinstance(m, nn.Linear)
    }
    assert widths.pop('backbone.layers.0.ffn.layers.0.0') == 24 - len(DEAD)
    assert set(widths.values()) == {16, 24, 48, 4}  # embedding, the other MLP, qkv, classes


def test_a_model_with_frozen_scales_is_refused(tmp_path):
    runner = toy_runner(tmp_path, [demp()])
    for layer in runner.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)
    with pytest.raises(ValueError, match='5 such layers, none of them trainable'):
        runner.train()


def test_an_optimizer_on_copies_is_refused(tmp_path):
    class MasterCopies(torch.optim.SGD):
        def __init__(self, params, **kwargs):
            copies = [
                nn.Parameter(p.detach().clone())
                for group in params
                for p in (group['params'] if isinstance(group, dict) else [group])
            ]
            super().__init__(copies, **kwargs)

    OPTIMIZERS.register_module(module=MasterCopies, force=True)
    runner = toy_runner(
        tmp_path, [demp()], optim_wrapper=dict(optimizer=dict(type='MasterCopies', lr=0.1))
    )
    with pytest.raises(TypeError, match='norm.weight is trainable but not in the optimizer'):
        runner.train()


def test_a_sharding_wrapper_is_refused(tmp_path):
    @MODEL_WRAPPERS.register_module(force=True)
    class Sharded(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def train_step(self, *args):
            raise AssertionError('a step was taken')

    runner = toy_runner(tmp_path, [demp()])
    runner.model = Sharded(runner.model)
    with pytest.raises(TypeError, match='needs a plain or DDP model, got Sharded'):
        runner.train()
    assert not isinstance(runner.model, MMDistributedDataParallel)


def test_an_event_that_finds_nothing_changes_nothing(tmp_path):
    runner = train(tmp_path, [demp(**QUIET)], dead=[])
    assert runner.model.blocks[0].conv1.weight.shape == (12, 8, 3, 3)
    meta = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)['meta']['mmpsbn']
    assert meta['plan']['tensors'] == {}
