import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from ranks import ON_RANKS, run_on_ranks
from snapshots import assert_same, snapshot
from torch import nn
from torch.nn import functional as F
from toy import ToyData, ToyNet, kill_channels, toy_runner

from mmpsbn.engine import SparsityHook
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.engine.sparsity.channel_watch import ALL_MEASURES, ChannelWatch
from mmpsbn.engine.sparsity.settings import ActivationSettings

HOOK = dict(
    type='SparsityHook', interval=2, gamma_threshold=1e-3, activations=dict(interval_epochs=1)
)


def collapse(runner, channels=(0, 1, 2)):
    layer = runner.model.blocks[0].bn1
    kill_channels(layer, list(channels))


def train(work_dir, hooks=(HOOK,), prepare=collapse, **kwargs):
    runner = toy_runner(work_dir, [dict(h) if isinstance(h, dict) else h for h in hooks], **kwargs)
    messages = []

    class Keep:
        level = 0

        def handle(self, record):
            messages.append(record.getMessage())

    runner.logger.setLevel('INFO')
    runner.logger.handlers.append(Keep())
    prepare(runner)
    runner.train()
    return runner, messages


def scalars(runner, key='sparsity/collapsed'):
    path = Path(runner.log_dir) / 'vis_data/scalars.json'
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if key in r]


def hook_of(runner):
    return next(h for h in runner.hooks if isinstance(h, SparsityHook))


def test_scalars_every_interval_and_at_epoch_ends(tmp_path):
    runner, _ = train(tmp_path, [dict(HOOK, interval=3)], epochs=2)
    records = scalars(runner)
    assert [r['step'] for r in records] == [3, 4, 6, 8]  # 4 iterations an epoch
    assert {r['sparsity/collapsed'] for r in records} == {3}
    assert {r['sparsity/collapsed_fraction'] for r in records} == {3 / 48}


def test_flops_sparsity_counts_what_removing_would_save(tmp_path):
    runner, _ = train(tmp_path, epochs=1)
    # MACs: stem 8x3, four 3x3 convolutions 8x12, all on 8x8, and the classifier 8x4
    stem, block, fc = 8 * 3 * 9 * 64, 8 * 12 * 9 * 64, 32
    saved = 2 * block * 3 / 12  # conv1 loses outputs, conv2 inputs
    expected = saved / (stem + 4 * block + fc)
    assert scalars(runner)[-1]['sparsity/flops_sparsity'] == pytest.approx(expected)


def test_the_log_has_a_line_a_table_and_the_counts_at_the_end(tmp_path):
    _, messages = train(tmp_path, epochs=1)
    lines = [m for m in messages if m.startswith('sparsity:')]
    assert '3 of 48 filters collapsed (|gamma| < 0.001), 6.25%' in lines[0]
    epoch_end, run_end = lines[-2:]
    assert 'blocks.0.bn1' in epoch_end and 'blocks.1.bn1' not in epoch_end
    for layer in ('norm', 'blocks.0.bn1', 'blocks.0.bn2', 'blocks.1.bn1', 'blocks.1.bn2'):
        assert layer in run_end
    head, *rows = (line.split() for line in run_end.splitlines()[1:])
    assert head == ['layer', 'channels', 'collapsed', 'dead']
    row = next(row for row in rows if row[0] == 'blocks.0.bn1')
    assert row == ['blocks.0.bn1', '12', '3', '(25.0%)', '3', '(25.0%)']


@pytest.mark.parametrize(
    'kwargs, reports',
    [
        (dict(epochs=2), ['2', '4 and its layers', '6', '8 and its layers']),
        (dict(iters=6), ['2', '4', '6 and its layers']),
    ],
)
def test_one_line_a_report_also_where_an_interval_and_an_epoch_end_together(
    tmp_path, kwargs, reports
):
    _, messages = train(tmp_path, [dict(HOOK, measures=['collapsed'])], **kwargs)
    *lines, run_end = [m for m in messages if m.startswith('sparsity:')]
    assert ['blocks.0.bn1' in m for m in lines] == ['layers' in r for r in reports]
    assert 'by layer:' in run_end


def test_a_run_by_iterations_that_is_stopped_reports_its_end_once(tmp_path):
    hook = dict(HOOK, measures=['collapsed'], stop_at=dict(collapsed=0.05))
    runner, messages = train(tmp_path, [hook], iters=16)
    assert runner.iter == 2 and [r['step'] for r in scalars(runner)] == [2]
    assert len([m for m in messages if m.startswith('sparsity:')]) == 2  # one is the run's


def test_a_report_moves_data_off_the_device_once(tmp_path, monkeypatch):
    moved = []
    to_cpu = torch.Tensor.cpu

    def counted(tensor):
        moved.append(tensor.numel())
        return to_cpu(tensor)

    runner, _ = train(tmp_path, epochs=1)
    hook = hook_of(runner)
    monkeypatch.setattr(torch.Tensor, 'cpu', counted)
    hook._read(runner, with_data=False)
    assert moved == [2 * 48]


def test_nan_gamma_is_reported_with_its_layer_and_not_as_collapsed(tmp_path):
    def poison(runner):
        with torch.no_grad():
            runner.model.blocks[1].bn2.weight[0] = float('nan')

    runner, messages = train(tmp_path, prepare=poison, epochs=1)
    assert 'blocks.1.bn2: gamma is NaN or inf' in messages
    assert scalars(runner)[0]['sparsity/collapsed'] == 0


def test_it_follows_a_model_that_is_pruned(tmp_path):
    demp = dict(
        type='DemPHook',
        penalty=dict(peak=0.0),
        noise=dict(peak_std=0.0),
        prune=dict(interval=3, num_samples=8),
    )
    runner, messages = train(tmp_path, [HOOK, demp], epochs=2)
    records = scalars(runner)
    assert records[0]['sparsity/collapsed'] == 3
    assert records[-1]['sparsity/collapsed'] == 0
    last = [m for m in messages if m.startswith('sparsity:')][-1]
    assert '0 of 45 filters' in last


@MODELS.register_module(force=True)
class HiddenNet(ToyNet):
    """With a hidden layer that no norm layer follows, half of it dead."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.fc = nn.Linear(8, 10), nn.Linear(10, 4)
        with torch.no_grad():
            self.hidden.bias.copy_(torch.tensor([-99.0] * 5 + [9.0] * 5))

    def forward(self, inputs, labels=None, mode='tensor'):
        x = F.relu(self.norm(self.stem(inputs)))
        x = F.dropout(F.relu(self.hidden(self.blocks(x).mean((2, 3)))), 0.2, self.training)
        logits = self.fc(x)
        return dict(loss=F.cross_entropy(logits, labels)) if mode == 'loss' else logits


def test_it_follows_a_model_that_loses_channels_without_a_norm(tmp_path):
    demp = dict(
        type='DemPHook',
        penalty=dict(peak=0.0),
        noise=dict(peak_std=0.0),
        prune=dict(interval=6, num_samples=8),
    )
    runner, messages = train(
        tmp_path,
        [dict(HOOK, layers='hidden', measures=['dead']), demp],
        epochs=2,
        model=dict(type='HiddenNet'),
        prepare=lambda runner: None,
    )
    assert runner.model.hidden.out_features == 5
    lines = [m for m in messages if 'filters dead' in m]
    assert '5 of 10 filters dead' in lines[0] and '0 of 5 filters dead' in lines[-1]


@pytest.mark.parametrize(
    'norm, decay, warns', [('psBN', 0.0, True), ('psBN', 1e-3, False), ('BN', 0.0, False)]
)
def test_psbn_without_decay_on_beta_is_said_once_with_its_layers(tmp_path, norm, decay, warns):
    demp = dict(type='DemPHook', prune=dict(interval=2))
    _, messages = train(
        tmp_path,
        [HOOK, demp],
        norm=norm,
        epochs=1,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=decay)),
    )
    said = [m for m in messages if 'no weight decay on beta' in m]
    assert len(said) == warns
    if warns:
        assert said[0].startswith('5 psBN layers') and 'blocks.1.bn2' in said[0]


def test_decay_switched_off_for_norms_is_noticed(tmp_path):
    _, messages = train(
        tmp_path,
        norm='psBN',
        epochs=1,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.01, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
    )
    assert any('no weight decay on beta' in m for m in messages)


def test_frozen_betas_are_no_reason_to_warn(tmp_path):
    def freeze(runner):
        for name in ('norm', 'blocks.0.bn1', 'blocks.0.bn2', 'blocks.1.bn1'):
            runner.model.get_submodule(name).requires_grad_(False)

    _, messages = train(
        tmp_path,
        norm='psBN',
        epochs=1,
        prepare=freeze,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=0.0)),
    )
    said = next(m for m in messages if 'no weight decay on beta' in m)
    assert said.startswith('1 psBN layers') and 'blocks.1.bn2' in said


def test_it_watches_on_where_it_cannot_trace(tmp_path):
    runner, messages = train(tmp_path, epochs=1)
    hook = hook_of(runner)
    hook._batches.append((1, 2))
    hook._watch._size = 0
    reading = hook._read(runner, with_data=True)
    assert not reading.values and set(reading.counts) == {'collapsed'}
    assert reading.counts['collapsed'].total == (3, 48)
    assert any('reports of gammas and biases alone: a batch must be a dict' in m for m in messages)


@pytest.mark.parametrize(
    'inputs, message',
    [
        (
            dict(sup=[], unsup=[]),
            "a batch's 'inputs' must be one tensor or a list of pictures, got",
        ),
        (None, "a batch's 'inputs' must be one tensor or a list of pictures, got NoneType"),
        ([], "data_preprocessor must return 'inputs' as one tensor, got list"),
        (torch.zeros(0, 3, 8, 8), 'no activation was observed'),
    ],
)
def test_odd_batches_end_no_run(tmp_path, inputs, message):
    runner, messages = train(tmp_path, epochs=1)
    hook = hook_of(runner)
    for size in (hook._watch._size, 0):  # at a look, and at a trace
        hook._watch._size = size
        hook._batches.extend([dict(inputs=inputs)] * 2)
        messages.clear()
        assert hook._read(runner, with_data=True).counts['collapsed'].total == (3, 48)
        assert any(message in m for m in messages)


def test_a_look_at_activations_that_fails_ends_no_run(tmp_path):
    odd = ToyData(length=4)
    odd.inputs = odd.inputs[:, :2]
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=odd,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    settings = dict(interval_epochs=1, loader=loader)
    runner, messages = train(tmp_path, [dict(HOOK, activations=settings)], epochs=1)
    assert runner.iter == 4 and not scalars(runner, 'sparsity/dead_fraction')
    assert any('no activations in this report: Given groups=1' in m for m in messages)


def test_an_epoch_that_ends_with_an_interval_is_reported_once(tmp_path):
    runner, _ = train(tmp_path, [dict(HOOK, interval=2)], epochs=2)
    assert [r['step'] for r in scalars(runner)] == [2, 4, 6, 8]


# ---------------------------------------------------------------- activations
def test_dead_channels_are_those_that_are_0_where_they_are_read(tmp_path):
    runner, messages = train(tmp_path, [dict(HOOK, measures=['dead', 'universality'])], epochs=1)
    model = runner.model.eval()
    inputs = torch.cat([batch['inputs'] for batch in hook_of(runner)._batches])
    with torch.no_grad():
        x = F.relu(model.norm(model.stem(inputs)))
        seen = [x]
        for block in model.blocks:
            inner = F.relu(block.bn1(block.conv1(x)))
            x = F.relu(x + block.bn2(block.conv2(inner)))
            seen += [inner, x]
    dead = sum(int((a.amax((0, 2, 3)) <= 1e-12).sum()) for a in seen)
    (record,) = scalars(runner, 'sparsity/dead_fraction')
    assert record['sparsity/dead_fraction'] == dead / 48 and dead >= 3
    tops = [a.amax((2, 3)) for a in seen]
    universality = torch.cat([(t > 1e-3 * t.amax(0)).double().mean(0) for t in tops]).mean()
    assert record['sparsity/universality'] == pytest.approx(float(universality), abs=0.01)
    assert 'sparsity/collapsed' not in record
    assert f'{dead} of 48 filters dead' in [m for m in messages if m.startswith('sparsity:')][-1]


@pytest.mark.parametrize('interval, steps', [(1, [4, 8, 12, 16]), (2, [8, 16])])
def test_activations_are_looked_at_every_so_many_epochs(tmp_path, interval, steps):
    hook = dict(HOOK, interval=100, activations=dict(interval_epochs=interval))
    runner, _ = train(tmp_path / 'epochs', [hook], epochs=4)
    assert [r['step'] for r in scalars(runner, 'sparsity/dead_fraction')] == steps
    # an epoch of a run by iterations is once through the data
    runner, _ = train(tmp_path / 'iters', [hook], iters=16)
    assert [r['step'] for r in scalars(runner, 'sparsity/dead_fraction')] == steps


@pytest.mark.parametrize(
    'settings, epochs',
    [((), 2), ((None, 1), 1), ((3, 2), 3)],
)
def test_by_default_short_epochs_are_joined(settings, epochs):
    assert ActivationSettings(*settings).interval(100) == 100 * epochs
    assert ActivationSettings().interval(4) == 200
    assert ActivationSettings().interval(7330) == 7330


def test_what_is_looked_at_is_the_last_batches_or_a_loader(tmp_path, monkeypatch):
    seen = []
    read = ChannelWatch.read_activations

    def spy(self, runner, batches):
        batches = list(batches)
        seen.append(torch.cat([batch['inputs'] for batch in batches]))
        return read(self, runner, batches)

    monkeypatch.setattr(ChannelWatch, 'read_activations', spy)
    train(
        tmp_path / 'a', [dict(HOOK, activations=dict(interval_epochs=1, num_batches=3))], epochs=1
    )
    assert [len(x) for x in seen] == [24, 24]  # at the end of the epoch and of training
    data = ToyData()
    rows = {tuple(x.flatten().tolist()) for x in data.inputs}
    assert all(tuple(x.flatten().tolist()) in rows for x in seen[0])
    seen.clear()
    loader = dict(
        batch_size=5,
        num_workers=0,
        dataset=data,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    train(
        tmp_path / 'b', [dict(HOOK, activations=dict(interval_epochs=1, loader=loader))], epochs=2
    )
    assert len(seen) == 3 and all(torch.equal(x, data.inputs[:10]) for x in seen)


class RandomData(ToyData):
    """Draws from every global generator, as transforms do."""

    def __getitem__(self, i):
        picture = super().__getitem__(i)
        draws = random.random() + np.random.rand() + float(torch.rand(()))
        return dict(picture, inputs=picture['inputs'] + draws)


@pytest.mark.parametrize('probe', [False, True])
def test_looking_draws_no_random_number_of_the_run(tmp_path, probe):
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=RandomData(length=4),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    settings = dict(interval_epochs=1, loader=loader if probe else None)
    runner, _ = train(tmp_path, [dict(HOOK, activations=settings)], epochs=1)

    def states():
        return str((torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()))

    before = states()
    assert hook_of(runner)._read(runner, with_data=True).counts['dead'].total[1] == 48
    assert states() == before


def test_looking_changes_nothing_in_the_run(tmp_path):
    every = dict(HOOK, interval=1, measures=list(ALL_MEASURES))
    with_hook, _ = train(tmp_path / 'a', [every], epochs=2)
    without, _ = train(tmp_path / 'b', [], epochs=2)
    assert_same(snapshot(with_hook.model), snapshot(without.model))
    assert with_hook.model.training == without.model.training


def test_revivals_and_overlap_over_epochs(tmp_path):
    class Flip(Hook):
        """Kills channels of the first block, others each epoch."""

        priority = 'VERY_HIGH'

        def after_train_epoch(self, runner):
            layer = runner.model.blocks[0].bn1
            with torch.no_grad():
                layer.weight[:4] = 1
                layer.bias[:4] = 5
            kill_channels(layer, [[0, 1], [1, 2], [0, 3]][runner.epoch])

    sgd = dict(optimizer=dict(type='SGD', lr=1e-9))
    hook = dict(HOOK, measures=['revival'], layers=['blocks.0.bn1'])
    runner, messages = train(
        tmp_path, [Flip(), hook], epochs=3, optim_wrapper=sgd, prepare=lambda runner: None
    )
    records = scalars(runner, 'sparsity/revived')
    assert [r['sparsity/revived'] for r in records] == [1, 2]
    # of {0, 1} and now {1, 2}; then of {0, 1, 2} and now {0, 3}
    assert [r['sparsity/dead_overlap'] for r in records] == [1 / 2, 1 / 2]


def test_all_measures_and_further_thresholds(tmp_path):
    hook = dict(HOOK, measures=ALL_MEASURES, gamma_threshold=[1e-3, 1e-2, 3.0])
    runner, _ = train(tmp_path, [hook], epochs=2)
    last = {k: v for r in scalars(runner, 'step') for k, v in r.items()}
    assert last['sparsity/collapsed_below_0.01_fraction'] == 3 / 48
    assert last['sparsity/collapsed_below_3_fraction'] == 1
    assert last['sparsity/hardly_active_fraction'] >= 3 / 48
    assert last['sparsity/mostly_zero_fraction'] >= last['sparsity/dead_fraction'] >= 3 / 48
    assert last['sparsity/revived'] == 0
    weights = [8 * 3 * 9, *[8 * 12 * 9] * 4, 8 * 4]
    expected = 2 * weights[1] * 3 / 12 / sum(weights)
    assert last['sparsity/weight_sparsity'] == pytest.approx(expected)


def test_only_the_layers_of_the_patterns_are_looked_at(tmp_path):
    hook = dict(HOOK, layers=['blocks.0.*', 'norm'])
    runner, messages = train(tmp_path, [hook], epochs=1)
    record = scalars(runner)[-1]
    assert record['sparsity/collapsed_fraction'] == 3 / (12 + 8 + 8)
    assert not any('blocks.1' in m for m in messages)
    with pytest.raises(ValueError, match=r"layers: 'block\.\*' fits no layer of ToyNet"):
        train(tmp_path / 'b', [dict(HOOK, layers='block.*')])
    _, messages = train(tmp_path / 'c', [dict(HOOK, layers=['norm', '*.conv1'])], epochs=1)
    said = [m for m in messages if m.startswith('layers:')]
    assert said == [
        "layers: '*.conv1' fits no layer that is counted: name the norm layer behind a convolution"
    ]


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(interval=0), 'interval must be an int >= 1, got 0'),
        (
            dict(gamma_threshold=[1e-3, 0]),
            r'gamma_threshold must be > 0 and finite, got \[0.001, 0',
        ),
        (dict(gamma_threshold=[]), r'gamma_threshold must be > 0 and finite, got \[\]'),
        (dict(measures=['colapsed']), r"measures must be some of .* got \['colapsed'\]"),
        (dict(measures=[]), 'measures must be some of'),
        (dict(warn_at=dict(flops_sparsity=0.1)), "warn_at has no 'flops_sparsity'"),
        (dict(warn_at=dict(mostly_zero=0.1)), "warn_at has no 'mostly_zero'"),
        (dict(stop_at=dict(dead=1.5)), r"stop_at\['dead'\] must be a share in \(0, 1\], got 1.5"),
        (dict(warn_at=0.05), 'warn_at must be a dict of'),
        (dict(activations=dict(num_batches=0)), 'activations num_batches must be an int >= 1'),
        (dict(activations=dict(eps=-1)), 'activations eps must be a finite number >= 0, got -1'),
        (dict(activations=dict(loader='val')), "activations loader must be .* got 'val'"),
        (dict(activations=dict(batches=2)), r"no \['batches'\] .*'num_batches'.*; allowed are"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        SparsityHook(**setting)


# ---------------------------------------------------------------- ranks
def watch_on_a_rank(work_dir):
    hook = dict(HOOK, interval=100, measures=['collapsed', 'dead', 'universality'])
    runner = toy_runner(f'{work_dir}/r', [hook], epochs=1, **ON_RANKS)
    layer = bare_model(runner).blocks[0].bn1
    kill_channels(layer, [1, 3])

    def revive(module, args, output):
        output[:, 3] = 1.0

    if get_rank() == 1:
        layer.register_forward_hook(revive)
    runner.train()
    hook = hook_of(runner)
    reading = hook._read(runner, with_data=True)
    own = torch.cat([batch['inputs'] for batch in hook._batches])
    return reading.counts['dead'].masks['blocks.0.bn1'], reading.values['universality'], own


def test_dead_is_what_is_dead_on_all_ranks(tmp_path):
    (dead, universality, ours), (same, also, theirs) = run_on_ranks(
        watch_on_a_rank, 2, tmp_path, str(tmp_path)
    )
    assert not torch.equal(ours, theirs)
    assert dead.nonzero().flatten().tolist() == [1] and torch.equal(dead, same)
    assert universality == also


def watch_where_a_rank_fails(work_dir, samples):
    runner = toy_runner(f'{work_dir}/r{samples}', [dict(HOOK)], epochs=2, **ON_RANKS)

    def fail(module, args):
        if get_rank() == 1 and not module.training and len(args[0]) == samples:
            raise RuntimeError('out of memory')

    bare_model(runner).stem.register_forward_pre_hook(fail)
    runner.train()
    return runner.iter, hook_of(runner)._watch.graph is not None


@pytest.mark.parametrize('samples, traced', [(1, False), (4, True)])
def test_a_rank_whose_look_fails_leaves_none_waiting(tmp_path, samples, traced):
    # a trace takes one sample, a look all
    ends = run_on_ranks(watch_where_a_rank_fails, 2, tmp_path, str(tmp_path), samples)
    assert ends == [(8, traced)] * 2
