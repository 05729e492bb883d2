"""RoundsHook: where rounds end, what is noted of each, and what lies between two."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from ranks import ON_RANKS, run_on_ranks
from runs import hook_of, scalars
from snapshots import assert_same
from torch import nn
from toy import ToyNet, kill_channels, toy_runner
from toy_validation import validation

from mmpsbn.engine import RoundsHook
from mmpsbn.functional.rounds import shuffle_

HOOK = dict(type='RoundsHook')


def restarts(periods, by_epoch=True, **kwargs):
    return [
        dict(
            type='CosineRestartLR',
            periods=list(periods),
            restart_weights=[1] * len(periods),
            eta_min=0,
            by_epoch=by_epoch,
            **kwargs,
        )
    ]


@HOOKS.register_module(force=True)
class Notes(Hook):
    """Of each iteration: the learning rate, how many momenta there are, the model's mode."""

    priority = 'LOWEST'

    def __init__(self):
        self.lrs, self.momenta, self.training = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        optimizer = runner.optim_wrapper.optimizer
        self.lrs.append(optimizer.param_groups[0]['lr'])
        self.momenta.append(len(optimizer.state))
        self.training.append(runner.model.training)


WARMUP = dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1)  # of the first round


def build(work_dir, *, periods=(2, 2), hook=HOOK, hooks=(), val=None, **kwargs):
    """4 iterations an epoch."""
    by_epoch = 'iters' not in kwargs
    kwargs.setdefault('param_scheduler', restarts(periods, by_epoch))
    if by_epoch:
        kwargs['epochs'] = sum(periods)
    return toy_runner(
        work_dir, [dict(hook), dict(type='Notes'), *hooks], **(val or validation()), **kwargs
    )


def table(work_dir):
    return json.loads((Path(work_dir) / 'rounds.json').read_text())


def test_a_row_a_round(tmp_path):
    runner = build(tmp_path, periods=[2, 1])
    kill_channels(runner.model.blocks[0].bn1, [0, 1, 2])
    runner.train()
    # the papers' learning rate
    expected = [0.05 * (1 + math.cos(math.pi * e / t)) / 2 for t in (2, 1) for e in range(t)]
    assert hook_of(runner, Notes).lrs[::4] == pytest.approx(expected)
    rows = table(tmp_path)
    assert [(row['round'], row['iter']) for row in rows] == [(1, 8), (2, 12)]
    for row in rows:
        assert (row['collapsed'], row['channels'], row['gamma_threshold']) == (3, 48, 1e-3)
        assert 0 < row['flops_sparsity'] < 0.2 and 0 < row['weight_sparsity'] < 0.2
        assert row['dead'] >= 3 and row['prunable'] == 32  # the stream and two inner groups
        assert 0 <= row['metrics']['accuracy'] <= 1
        assert 'not_grown' not in row
        for key in ('collapsed', 'flops_sparsity', 'accuracy'):
            found = {r['step']: r[f'round/{key}'] for r in scalars(runner, f'round/{key}')}
            assert found[row['round']] == (row | row['metrics'])[key]
    # the last epoch's, not the round's
    assert runner.message_hub.get_scalar('train/loss').mean(4) == pytest.approx(rows[1]['loss'])


def test_what_is_dead_is_dead_on_the_whole_validation(tmp_path):
    """Channel 1 fires for the first validation batch alone."""

    def dead(folder, fires):
        runner = build(tmp_path / folder, periods=[1])
        bn, calls = runner.model.blocks[0].bn1, []
        kill_channels(bn, [0, 1])

        def fire(module, args, out):
            if fires and not runner.model.training and len(args[0]) == 8:
                calls.append(module)
                if len(calls) % 4 == 1:
                    out = out.clone()
                    out[0, 1, 0, 0] = 5.0
            return out

        bn.register_forward_hook(fire)
        runner.train()
        return table(tmp_path / folder)[0]['dead']

    assert dead('never', fires=False) == dead('once', fires=True) + 1


@pytest.mark.parametrize(
    'kwargs, ends',
    [
        (dict(periods=[6, 4], iters=10, val=validation()), [6, 10]),
        (dict(param_scheduler=restarts([2, 2], convert_to_iter_based=True)), [8, 16]),
        (dict(param_scheduler=[WARMUP, *restarts([1, 2], begin=1)]), [8, 16]),
        (dict(val=dict(val_cfg=None)), [8, 16]),
    ],
    ids=['in iterations', 'converted', 'behind a warmup', 'without validation'],
)
def test_where_rounds_end(tmp_path, kwargs, ends):
    (tmp_path / 'rounds.json').write_text('[{"round": 1, "iter": 4}]')  # of an older run
    runner = build(tmp_path, **kwargs)
    runner.train()
    rows = table(tmp_path)
    assert [(row['round'], row['iter']) for row in rows] == [(1, ends[0]), (2, ends[1])]
    validated = 'val' not in kwargs or 'val_evaluator' in kwargs['val']
    assert all(('accuracy' in row.get('metrics', {})) == validated for row in rows)
    assert all(('dead' in row) == validated for row in rows)
    assert all(hook_of(runner, Notes).training)  # a validation in between is the hook's own


@MODELS.register_module(force=True)
class NoNorms(ToyNet):
    def __init__(self):
        super().__init__()
        self.norm = nn.Identity()
        for block in self.blocks:
            block.bn1, block.bn2 = nn.Identity(), nn.Identity()


def test_a_net_without_norm_layers(tmp_path):
    build(tmp_path, model=dict(type='NoNorms'), hooks=[], periods=[1]).train()
    (row,) = table(tmp_path)
    assert (row['collapsed'], row['channels'], row['flops_sparsity']) == (0, 0, None)
    assert 'accuracy' in row['metrics'] and row['prunable'] == 32


@pytest.mark.parametrize('reset', [False, True])
def test_momentum_is_reset_only_if_asked(tmp_path, reset):
    runner = build(tmp_path, hook=dict(HOOK, reset_optimizer=reset))
    runner.train()
    held = hook_of(runner, Notes).momenta
    assert held[0] == 0 and held[7] == held[1] > 0
    assert held[8] == (0 if reset else held[1])


def test_a_shuffle_moves_all_trainable_values_within_their_tensors(tmp_path):
    @HOOKS.register_module(force=True)
    class Around(Hook):
        priority = 'VERY_LOW'

        def after_train_epoch(self, runner):
            self.before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch and not batch_idx:
                after = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
                pairs.append((self.before, after, len(runner.optim_wrapper.optimizer.state)))

    pairs = []
    runner = build(
        tmp_path,
        periods=[1, 2],
        hook=dict(HOOK, shuffle=True),
        hooks=[dict(type='Around')],
        model=dict(type='ToyNet', norm_cfg=dict(type='psBN')),
    )
    runner.model.fc.weight.requires_grad = False
    runner.train()
    (before, after, states), (unmoved, same, _) = pairs
    for name, value in before.items():
        torch.testing.assert_close(
            value.flatten().sort().values, after[name].flatten().sort().values, rtol=0, atol=0
        )
        assert torch.equal(value, after[name]) == (name == 'fc.weight'), name
    assert states == 0  # momenta belong to places
    generator = torch.Generator().manual_seed(runner.seed + 4)
    for name, value in before.items():  # once, and by the seed alone
        if name != 'fc.weight':
            shuffle_(value, generator=generator)
            assert torch.equal(value, after[name]), name
    assert all(torch.equal(unmoved[name], same[name]) for name in same)  # within a round


@pytest.mark.parametrize(
    'hook, stop_epoch',
    [
        (HOOK, 1),
        (HOOK, 2),
        (dict(HOOK, shuffle=True), 2),
        (dict(HOOK, shuffle=True), 3),
        (dict(HOOK, reset_optimizer=True), 2),
    ],
)
def test_a_resumed_run_continues_table_and_training(tmp_path, hook, stop_epoch):
    whole = build(tmp_path / 'whole', hook=hook)
    whole.train()
    build(tmp_path / 'parts', hook=hook).train()
    for epoch in range(stop_epoch + 1, 5):
        (tmp_path / f'parts/epoch_{epoch}.pth').unlink()
    (tmp_path / 'parts/last_checkpoint').write_text(str(tmp_path / f'parts/epoch_{stop_epoch}.pth'))
    resumed = build(tmp_path / 'parts', hook=hook, resume=True)
    resumed.train()
    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert table(tmp_path / 'parts') == table(tmp_path / 'whole')


@pytest.mark.parametrize('end', [2, 4])
def test_a_round_killed_before_its_validation_is_validated(tmp_path, end):
    build(tmp_path / 'whole').train()

    @HOOKS.register_module(force=True)
    class Killed(Hook):
        def before_val_epoch(self, runner):
            if runner.epoch == end:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'parts', hooks=[dict(type='Killed')]).train()
    assert 'metrics' not in table(tmp_path / 'parts')[-1]
    build(tmp_path / 'parts', resume=True).train()
    assert table(tmp_path / 'parts') == table(tmp_path / 'whole')


def test_numbers_json_lacks_are_null(tmp_path):
    runner = build(tmp_path, periods=[1])
    with torch.no_grad():
        runner.model.fc.bias.fill_(float('nan'))
    runner.train()
    assert table(tmp_path)[0]['loss'] is None


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(gamma_threshold=0), 'gamma_threshold must be > 0 and finite, got 0'),
        (dict(gamma_threshold=float('nan')), 'gamma_threshold must be > 0 and finite, got nan'),
        (dict(shuffle=1), 'shuffle must be True or False, got 1'),
        (dict(reset_optimizer='no'), "reset_optimizer must be True or False, got 'no'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RoundsHook(**settings)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(param_scheduler=None), r'need one schedule of restarts, param_scheduler has 0: add'),
        (
            dict(param_scheduler=[dict(type='CosineAnnealingLR', T_max=4)]),
            'need one schedule of restarts',
        ),
        (dict(param_scheduler=restarts([2, 1])), r'end at epochs \[2.0, 3.0\].* epoch 4'),
        (dict(param_scheduler=restarts([6, 10], by_epoch=False)), r'end at epochs \[1.5, 4.0\]'),
        (dict(iters=10, periods=[6, 6]), r'end at iterations \[6.0, 12.0\].* iteration 10'),
    ],
)
def test_rounds_that_do_not_fit_the_training(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **kwargs).train()


def refusal(work_dir):
    with pytest.raises(ValueError, match='rounds.json is not a table of .*move it away') as refused:
        build(work_dir, **ON_RANKS).train()
    return str(refused.value)


def test_a_file_that_is_no_table_ends_the_run_on_all_ranks(tmp_path):
    (tmp_path / 'rounds.json').write_text('{"iter": 3')
    first, second = run_on_ranks(refusal, 2, tmp_path, str(tmp_path))
    assert first == second
