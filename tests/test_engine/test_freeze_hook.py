"""FreezeHook: what is frozen stays to the bit, and the seed gives it back."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from ranks import ON_RANKS, run_on_ranks
from runs import demp, hook_of, resume_from
from snapshots import assert_same
from toy import TRAINED_PARTS, toy_runner

from mmpsbn.commands.model_files import load_model, load_seed_checkpoint
from mmpsbn.engine import FreezeHook
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.models import draw_model

MODEL = dict(type='ToyNet', norm_cfg=dict(type='psBN'))
CFG = dict(model=MODEL)
BN_ONLY = dict(type='FreezeHook', train=['norm'])
WRAPPERS = {
    'SGD': dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-2)),
    'Adam': dict(optimizer=dict(type='Adam', lr=0.01, weight_decay=1e-2)),
    'decoupled': dict(optimizer=dict(type='DecoupledAdadelta', lr=1.0, weight_decay=1e-2)),
    'by parameter': dict(
        optimizer=dict(type='AdamW', lr=0.01, weight_decay=1e-2),
        paramwise_cfg=dict(norm_decay_mult=0.5),
    ),
}


@HOOKS.register_module(force=True)
class Before(Hook):
    """The weights when training begins, after what all other hooks do then."""

    priority = 'LOWEST'

    def before_train(self, runner):
        model = bare_model(runner)
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}


def build(work_dir, hook=BN_ONLY, hooks=(), **kwargs):
    kwargs.setdefault('cfg', dict(CFG))
    return toy_runner(work_dir, [dict(hook), dict(type='Before'), *hooks], model=MODEL, **kwargs)


def moved(runner):
    """Parameter -> how many of its values differ from those at the start."""
    before = hook_of(runner, Before).weights
    model = bare_model(runner)
    return {n: int((p != before[n]).sum()) for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    'variant, wrapper',
    [*((variant, 'SGD') for variant in TRAINED_PARTS), *(('two per channel', w) for w in WRAPPERS)],
)
def test_what_is_frozen_stays_and_the_rest_moves(tmp_path, variant, wrapper):
    runner = build(
        tmp_path, dict(type='FreezeHook', **TRAINED_PARTS[variant]), optim_wrapper=WRAPPERS[wrapper]
    )
    runner.train()
    parameters = dict(runner.model.named_parameters())
    for name, count in moved(runner).items():
        size = parameters[name].numel()
        is_norm, is_head = 'bn' in name or 'norm' in name, 'fc' in name
        if variant == 'all but norm':
            expected = 0 if is_norm else size
        elif is_norm:
            expected = size if 'norm' in variant else 0
        elif is_head:
            expected = size if 'output' in variant else 0
        else:
            expected = 2 * len(parameters[name]) if 'two' in variant else 0
        # a channel that is dead may get no gradient
        assert count <= expected and count >= 0.7 * expected, name


def test_running_statistics_follow_the_data(tmp_path):
    runner = build(tmp_path, epochs=1)
    before = {n: b.clone() for n, b in runner.model.named_buffers()}
    runner.train()
    assert all(not torch.equal(b, before[n]) for n, b in runner.model.named_buffers())


def test_frozen_weights_take_no_part_in_gradient_clipping(tmp_path):
    def norm_of(hook, folder):
        runner = build(
            tmp_path / folder,
            hook,
            epochs=1,
            optim_wrapper=dict(WRAPPERS['SGD'], clip_grad=dict(max_norm=1e9)),
        )
        runner.train()
        return runner.message_hub.get_scalar('train/grad_norm').data[0][0]

    few = norm_of(dict(type='FreezeHook', train=[], per_channel=1), 'few')
    assert 0 < few < 0.7 * norm_of(dict(type='FreezeHook', train=['conv', 'stem']), 'all')


def test_nothing_is_held_after_training(tmp_path):
    runner = build(tmp_path, dict(type='FreezeHook', train=[], per_channel=1), epochs=1)
    runner.train()
    weight = runner.model.stem.weight
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    runner.optim_wrapper.optimizer.step()
    assert (weight != before).all()


def test_a_tensor_that_moves_is_named(tmp_path):
    @HOOKS.register_module(force=True)
    class Writes(Hook):
        def after_train_epoch(self, runner):
            with torch.no_grad():
                runner.model.blocks[1].conv2.weight.view(-1)[0] += 1e-6

    with pytest.raises(RuntimeError, match='1 frozen tensors have moved .*, blocks.1.conv2.weight'):
        build(tmp_path, hooks=[dict(type='Writes')]).train()


@pytest.mark.parametrize('variant', ['norm', 'two per channel'])
@pytest.mark.parametrize('seed', [None, 7])
def test_a_resumed_run_ends_bit_equal(tmp_path, variant, seed):
    hook = dict(type='FreezeHook', seed=seed, **TRAINED_PARTS[variant])
    whole = build(tmp_path / 'whole', hook)
    whole.train()
    resumed = build(tmp_path / 'parts', hook, **resume_from(tmp_path / 'whole/epoch_2.pth'))
    resumed.train()
    assert_same(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.parametrize('variant', ['all but norm', 'two per channel and output'])
def test_the_file_of_seed_and_trained_values_is_the_model(tmp_path, variant):
    build(tmp_path, dict(type='FreezeHook', seed=7, **TRAINED_PARTS[variant])).train()
    from_seed = load_seed_checkpoint(Config(CFG), str(tmp_path / 'from_seed.pth'))
    full = load_model(Config(CFG), str(tmp_path / 'epoch_4.pth')).model
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(from_seed(x), full(x))
    for (name, ours), theirs in zip(full.named_parameters(), from_seed.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_weights_are_the_seed_s_whatever_the_run_s(tmp_path):
    runner = build(tmp_path, dict(BN_ONLY, seed=7))
    runner.train()
    drawn = draw_model(MODEL, 7)
    assert torch.equal(runner.model.stem.weight, drawn.stem.weight)
    assert torch.equal(hook_of(runner, Before).weights['norm.bias'], drawn.norm.bias)
    assert (tmp_path / 'from_seed.pth').exists()
    build(tmp_path / 'without', epochs=1).train()
    assert not (tmp_path / 'without/from_seed.pth').exists()


def test_a_run_resumed_with_another_seed(tmp_path):
    build(tmp_path, dict(BN_ONLY, seed=7)).train()
    go_on = resume_from(tmp_path / 'epoch_2.pth')
    with pytest.raises(ValueError, match='stem.weight of the resumed run is not what seed=8 draws'):
        build(tmp_path, dict(BN_ONLY, seed=8), **go_on).train()


def test_a_seed_and_weights_to_load(tmp_path):
    build(tmp_path, epochs=1).train()
    with pytest.raises(ValueError, match=r'draws all weights anew, and load_from=.*would be lost'):
        build(
            tmp_path / 'next', dict(BN_ONLY, seed=7), load_from=str(tmp_path / 'epoch_1.pth')
        ).train()
    build(tmp_path / 'next', load_from=str(tmp_path / 'epoch_1.pth')).train()


def test_a_seed_and_a_run_without_a_config(tmp_path):
    with pytest.raises(ValueError, match='has no model; start the run with mmpsbn train'):
        build(tmp_path, dict(BN_ONLY, seed=7), cfg=None).train()


@pytest.mark.parametrize('prunes', [demp(), dict(type='DemPHook', budget=dict(flops=0.5))])
def test_a_run_that_prunes_is_refused_before_the_first_step(tmp_path, prunes):
    runner = build(tmp_path, hooks=[prunes])
    with pytest.raises(ValueError, match='DemPHook cuts them: train with one of the two'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('seed', [-1, 1.5, True, '7'])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match='seed must be None or an int >= 0, got'):
        FreezeHook(train=['norm'], seed=seed)


def on_a_rank(work_dir, hook):
    runner = build(work_dir, hook, **dict(ON_RANKS, cfg=CFG | ON_RANKS['cfg']))
    runner.train()
    return {n: p.detach() for n, p in bare_model(runner).named_parameters()}, moved(runner)


def test_on_two_ranks(tmp_path):
    hook = dict(type='FreezeHook', seed=7, train=['norm'], per_channel=2)
    (first, counts), (second, _) = run_on_ranks(on_a_rank, 2, tmp_path, str(tmp_path), hook)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert counts['stem.weight'] == 16 and counts['norm.weight']
