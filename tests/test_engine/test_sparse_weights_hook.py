"""Masks on single weights, held at the steps of a run."""

import copy
import re

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from ranks import ON_RANKS, run_on_ranks
from runs import EMA, average_of, demp, hook_of, resume_from, scalars, state_of, train
from snapshots import assert_same
from toy import ToyNet

from mmpsbn.engine import SparseWeightsHook
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.engine.sparse_weights.masks import WeightMasks, maskable_weights
from mmpsbn.functional.training_flops import training_flops_left

SIZES = {
    'blocks.0.conv1.weight': 864,
    'blocks.0.conv2.weight': 864,
    'blocks.1.conv1.weight': 864,
    'blocks.1.conv2.weight': 864,
    'fc.weight': 32,
}
METHODS = ['magnitude', 'saliency', 'set', 'rigl']
ADAMW = dict(optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1))
SHUFFLING = dict(type='RoundsHook', shuffle=True)
SGDM = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True))


def sparse(method, sparsity=0.75, **settings) -> dict:
    """With updates every 3 iterations from 3 to 15 of 20."""
    updates = dict(interval=3, begin=0.15, end=0.75) | settings.pop('updates', {})
    hook = dict(type='SparseWeightsHook', method=method, sparsity=sparsity, updates=updates)
    return hook | settings


class Watch(Hook):
    """Masks, and copies of weights and of what the optimizer remembers, after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.masks, self.weights, self.memories = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.masks.append(hook_of(runner, SparseWeightsHook).masks.state())
        model, optimizer = bare_model(runner), runner.optim_wrapper.optimizer
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters()})
        self.memories.append(
            {
                n: [v.clone() for v in optimizer.state[p].values() if v.shape == p.shape]
                for n, p in model.named_parameters()
            }
        )


class Stop(Exception):
    pass


class StopAfter(Hook):
    """A run that breaks off behind the checkpoint of its 5th iteration."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 4:
            raise Stop


def kept_in(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


@pytest.mark.parametrize('optimizer', [SGDM, ADAMW], ids=['SGDM', 'AdamW'])
@pytest.mark.parametrize('method', METHODS)
def test_masked_weights_are_0_after_each_step_and_as_many_as_asked_for(tmp_path, method, optimizer):
    watch = Watch()
    runner, _ = train(
        tmp_path, [sparse(method), EMA, watch], iters=20, optim_wrapper=copy.deepcopy(optimizer)
    )
    for masks, weights, memories in zip(watch.masks, watch.weights, watch.memories):
        assert masks.keys() == SIZES.keys()
        for name, mask in masks.items():
            assert not weights[name][~mask].any()
            assert all(not memory[~mask].any() for memory in memories[name])
    assert kept_in(watch.masks[-1]) == {name: size // 4 for name, size in SIZES.items()}
    assert not dict(average_of(runner).named_parameters())['fc.weight'][
        ~watch.masks[-1]['fc.weight']
    ].any()
    assert all(memory.any() for memory in watch.memories[-1]['fc.weight'])


@pytest.mark.parametrize('method', ['magnitude', 'saliency'])
def test_gradual_sparsity_follows_the_cubic_and_never_turns_back(tmp_path, method):
    watch = Watch()
    train(tmp_path, [sparse(method), watch], iters=20)
    kept = [kept_in(masks) for masks in watch.masks]
    for iteration, counts in enumerate(kept):  # 0-based: an update at 3 is before the 4th step
        progress = max(0, min(iteration, 15) // 3 * 3 - 3) / 12
        share = 1 - 0.75 * (1 - (1 - progress) ** 3)
        assert counts == {name: round(share * size) for name, size in SIZES.items()}
    for before, after in zip(watch.masks, watch.masks[1:]):
        assert all((before[name] | ~after[name]).all() for name in SIZES)


def test_the_last_of_updates_to_the_end_comes_before_the_last_step(tmp_path):
    watch = Watch()
    updates = dict(interval=5, begin=0.3, end=1.0)
    train(tmp_path, [sparse('magnitude', updates=updates), watch], iters=20)
    assert kept_in(watch.masks[-1]) == {name: size // 4 for name, size in SIZES.items()}


def spied_updates(monkeypatch):
    """What each update saw and made: weights, gradients, masks before and after."""
    seen, update = [], WeightMasks.update

    def spied(self, progress, step):
        before = self.state()
        weights = {n: w.detach().clone() for n, w in self._weights.items()}
        gradients = {n: w.grad.clone() for n, w in self._weights.items()}
        update(self, progress, step)
        seen.append((step, progress, weights, gradients, before, self.state()))

    monkeypatch.setattr(WeightMasks, 'update', spied)
    return seen


def test_rigl_grows_where_the_gradient_is_largest_and_takes_no_step_then(tmp_path, monkeypatch):
    seen, watch = spied_updates(monkeypatch), Watch()
    train(tmp_path, [sparse('rigl', drop_fraction=0.4), watch], iters=20)
    assert [step for step, *_ in seen] == [3, 6, 9, 12, 15]
    assert [progress for _, progress, *_ in seen] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for (step, _, weights, gradients, before, after), number in zip(seen, (86, 74, 43, 13, 0)):
        name = 'blocks.0.conv1.weight'
        w, g = weights[name].flatten().tolist(), gradients[name].flatten().tolist()
        kept = sorted(before[name].flatten().nonzero().flatten().tolist(), key=lambda i: -abs(w[i]))
        kept = kept[: len(kept) - number]
        others = sorted(set(range(len(w))) - set(kept), key=lambda i: -abs(g[i]))
        expected = sorted(kept + others[:number])
        assert after[name].flatten().nonzero().flatten().tolist() == expected
        was, now = watch.weights[step - 1], watch.weights[step]
        for name, weight in now.items():
            mask = after.get(name)
            assert torch.equal(weight, was[name] if mask is None else was[name].where(mask, 0))


def test_set_grows_by_the_seed_of_the_run(tmp_path):
    ends = []
    for folder, seed in (('a', 0), ('b', 0), ('c', 1)):
        watch = Watch()
        hook = sparse('set')

        def reseed(runner, seed=seed):
            runner._seed = seed

        train(tmp_path / folder, [hook, watch], reseed, iters=8)
        ends.append(watch.masks)
    assert_same(ends[0], ends[1])
    assert not torch.equal(ends[0][0]['fc.weight'], ends[2][0]['fc.weight'])
    grown = [m[3]['blocks.0.conv1.weight'] & ~m[2]['blocks.0.conv1.weight'] for m in ends]
    assert grown[0].sum() > 20 and not torch.equal(grown[0], grown[2])


@pytest.mark.parametrize('method', METHODS)
def test_a_resumed_run_ends_as_the_one_that_never_stopped(tmp_path, method):
    hooks = [sparse(method, updates=dict(interval=4)), EMA]  # at 4, 8, 12
    whole, _ = train(tmp_path / 'whole', hooks, iters=20)
    more = resume_from(tmp_path / 'whole/iter_10.pth')
    resumed, _ = train(tmp_path / 'resumed', hooks, iters=20, **more)
    assert_same(state_of(resumed), state_of(whole))
    masks = [hook_of(runner, SparseWeightsHook).masks.state() for runner in (whole, resumed)]
    assert_same(*masks)


def test_an_update_waits_for_the_step_of_accumulated_gradients(tmp_path, monkeypatch):
    seen, watch = spied_updates(monkeypatch), Watch()
    wrapper = dict(SGDM, accumulative_counts=4)
    train(tmp_path, [sparse('rigl'), watch], iters=20, optim_wrapper=copy.deepcopy(wrapper))
    assert [step for step, *_ in seen] == [3, 6, 9, 15]  # at the steps of 4, 8, 12 and 16
    changed = [
        k
        for k, (a, b) in enumerate(zip(watch.masks, watch.masks[1:]), 1)
        if any(not torch.equal(a[name], b[name]) for name in SIZES)
    ]
    assert changed == [3, 7, 11]


def test_the_log_says_what_inference_and_training_cost(tmp_path):
    runner, _ = train(tmp_path, [sparse('rigl', distribution='erk', dense=[])], iters=20)
    history = {
        name: runner.message_hub.get_scalar(f'train/sparse/{name}').data[0]
        for name in ('macs_left', 'weights_left', 'dense_gradients')
    }
    masks = hook_of(runner, SparseWeightsHook).masks.state()
    macs = {n: p.numel() * (1 if n.startswith('fc') else 64) for n, p in weights_of(ToyNet())}
    left = sum(macs[n] * int(m.sum()) / m.numel() for n, m in masks.items()) / sum(macs.values())
    assert history['macs_left'] == pytest.approx([left] * 20)
    assert history['weights_left'][-1] == pytest.approx(0.25, abs=1e-3)
    dense = [k in (3, 6, 9, 12, 15) for k in range(20)]
    assert history['dense_gradients'].tolist() == dense
    expected = (15 * left + 5 * (2 * left + 1) / 3) / 20
    flops = training_flops_left(history['macs_left'], dense, first=history['macs_left'][0])
    assert flops == pytest.approx(expected)
    written = scalars(runner, 'sparse/dense_gradients')  # by LoggerHook, of the same iteration
    assert [record['sparse/dense_gradients'] for record in written] == dense


def test_a_model_without_a_pass_on_inputs_alone_trains_without_macs(tmp_path):
    class OfLossesAlone(ToyNet):
        def forward(self, inputs, labels=None, mode='tensor'):
            if mode != 'loss':
                raise NotImplementedError('loss alone')
            return super().forward(inputs, labels, mode)

    torch.manual_seed(0)
    hooks = [sparse('magnitude', dense=[])]
    runner, messages = train(tmp_path, hooks, iters=20, model=OfLossesAlone())
    logged = runner.message_hub.log_scalars
    assert 'train/sparse/macs_left' not in logged
    left = logged['train/sparse/weights_left'].data[0]
    assert left[0] == 1 and left[-1] == pytest.approx(0.25, abs=1e-3)
    (warning,) = (message for message in messages if 'sparse/macs_left is left out' in message)
    assert warning.endswith('which raised NotImplementedError: loss alone')


def test_the_first_weight_alone_is_dense_and_not_those_that_end_on_its_name():
    model = torch.nn.Module()
    model.conv1, model.layer1 = torch.nn.Conv2d(3, 4, 3), torch.nn.Module()
    model.layer1.conv1, model.fc = torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 2)
    assert list(maskable_weights(model, None)) == ['layer1.conv1.weight', 'fc.weight']


def weights_of(model):
    return [(n, p) for n, p in model.named_parameters() if p.dim() > 1]


def on_two_ranks(folder):
    found = {}
    for method in METHODS:
        runner, _ = train(f'{folder}/{method}', [sparse(method)], epochs=5, **ON_RANKS)
        masks = hook_of(runner, SparseWeightsHook).masks.state()
        found[method] = masks, dict(bare_model(runner).named_parameters())
    return get_rank(), found


def test_ranks_with_other_data_have_the_same_masks(tmp_path):
    (_, first), (rank, second) = run_on_ranks(on_two_ranks, 2, tmp_path, str(tmp_path))
    assert rank == 1
    for method in METHODS:
        assert kept_in(first[method][0]) == {name: size // 4 for name, size in SIZES.items()}
    assert_same(second, first)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(method='lottery'), r"method must be one of \('magnitude', .* got 'lottery'"),
        (dict(sparsity=1), r'sparsity must be a number in \(0, 1\), got 1'),
        (dict(drop_fraction=0), r'drop_fraction must be a number in \(0, 1\), got 0'),
        (dict(distribution='erdos'), r"one of \('uniform', 'erk'\), got 'erdos'"),
        (dict(dense='fc'), "dense must be None or a list of pieces of names, got 'fc'"),
        (dict(updates=3), 'updates must be a dict of interval, begin and end, got 3'),
        (dict(updates=dict(interval=0)), 'updates interval must be an int >= 1, got 0'),
        (dict(updates=dict(begin=0.9)), 'begin < end <= 1, got 0.9 and 0.75'),
        (dict(updates=dict(every=1)), r"updates has no \['every'\]"),
    ],
)
def test_a_bad_argument_is_refused_when_the_hook_is_built(settings, message):
    hook = dict(type='SparseWeightsHook', method='set', sparsity=0.5)
    with pytest.raises(ValueError, match=message):
        HOOKS.build(hook | settings)


@pytest.mark.parametrize(
    'hooks, message',
    [
        ([sparse('set', dense=['head'])], r"dense=\['head'\] is in the name of no trained weight"),
        ([sparse('set', dense=['weight'])], 'no trained weight that could be sparse'),
        ([sparse('set', updates=dict(interval=99))], 'a run of 20 iterations has no update'),
        ([sparse('set', updates=dict(interval=20, end=1.0))], 'a run of 20 iterations has no upd'),
        ([sparse('set'), demp()], 'and DemPHook changes them: train with one of the two'),
        ([sparse('set'), SHUFFLING], r'RoundsHook\(shuffle=True\) moves the weights to others'),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_the_first_step(tmp_path, hooks, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, hooks, iters=20)


def test_several_optimizers_and_weights_in_none_are_refused(tmp_path):
    def split(runner):
        parts = [runner.model.fc, runner.model.blocks]
        runner.optim_wrapper = OptimWrapperDict(
            **{
                str(k): OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1))
                for k, part in enumerate(parts)
            }
        )

    def lose(runner):
        optimizer = torch.optim.SGD(runner.model.fc.parameters(), lr=0.1)
        runner.optim_wrapper = OptimWrapper(optimizer)

    with pytest.raises(TypeError, match='one optimizer, and this run has 2; train with one'):
        train(tmp_path, [sparse('set')], split, iters=20)
    with pytest.raises(TypeError, match=r'conv1.weight is .* not in the optimizer: SparseWeightsH'):
        train(tmp_path, [sparse('set')], lose, iters=20)


def test_a_step_that_unscales_within_is_refused(tmp_path):
    def fuse(runner):
        optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.1)
        optimizer.param_groups[0]['fused'] = True
        runner.optim_wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)  # which wants a GPU
        OptimWrapper.__init__(runner.optim_wrapper, optimizer)

    with pytest.raises(TypeError, match='SparseWeightsHook acts on unscaled gradients'):
        train(tmp_path, [sparse('set')], fuse, iters=20)


def test_masks_that_do_not_fit_are_refused_at_a_resume(tmp_path):
    train(tmp_path / 'plain', iters=5)
    with pytest.raises(Stop):
        train(tmp_path / 'masked', [sparse('set'), StopAfter()], iters=20)
    with pytest.raises(ValueError, match='it has no masks; resume without SparseWeightsHook'):
        train(tmp_path, [sparse('set')], iters=20, **resume_from(tmp_path / 'plain/iter_5.pth'))
    other = sparse('set', dense=['stem', 'fc'])
    with pytest.raises(ValueError, match=r"it has masks of \[\('fc.weight', \(4, 8\)\)\], and"):
        train(tmp_path, [other], iters=20, **resume_from(tmp_path / 'masked/iter_5.pth'))


@pytest.mark.parametrize(
    'settings, iters, difference',
    [
        (dict(sparsity=0.5), 20, "{'sparsity': 0.75}, and this run has {'sparsity': 0.5}"),
        (dict(distribution='erk'), 20, "{'distribution': 'uniform'}, and this run has"),
        (dict(updates=dict(end=0.9)), 20, "{'end': 0.75}, and this run has {'end': 0.9}"),
        ({}, 40, "{'max_iters': 20}, and this run has {'max_iters': 40}"),
    ],
)
def test_a_resume_with_other_settings_names_the_difference(tmp_path, settings, iters, difference):
    with pytest.raises(Stop):
        train(tmp_path / 'first', [sparse('magnitude'), StopAfter()], iters=20)
    more = resume_from(tmp_path / 'first/iter_5.pth')
    with pytest.raises(ValueError, match=f'SparseWeightsHook began with {re.escape(difference)}'):
        train(tmp_path, [sparse('magnitude', **settings)], iters=iters, **more)
