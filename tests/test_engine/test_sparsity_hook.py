"""SparsityHook: when it looks, what it finds, and that a run goes on as if it did not."""

import random

import numpy as np
import pytest
import torch
from mmengine.dist import get_rank
from mmengine.registry import MODELS
from ranks import ON_RANKS, run_on_ranks
from runs import demp, hook_of, killing, scalars, train
from snapshots import assert_same, snapshot
from torch import nn
from torch.nn import functional as F
from toy import ToyData, ToyNet, kill_channels, toy_runner

from mmpsbn.engine import SparsityHook
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.engine.sparsity.channel_watch import ChannelWatch
from mmpsbn.engine.sparsity.reading import ALL_MEASURES
from mmpsbn.engine.sparsity.revival import Revival
from mmpsbn.engine.sparsity.settings import ActivationSettings

EVERY_EPOCH = dict(interval_epochs=1)
HOOK = dict(type='SparsityHook', interval=2, activations=EVERY_EPOCH)
THREE_DEAD = killing([0, 1, 2])  # of 48 channels


def watch(work_dir, prepare=THREE_DEAD, hooks=(), hook=HOOK, **kwargs):
    """A trained runner and what it has said."""
    return train(work_dir, [*hooks, hook], prepare, **kwargs)


def lines_of(messages):
    return [m for m in messages if m.startswith('sparsity:')]


def loader_of(dataset, batch_size=4):
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


@pytest.mark.parametrize(
    'hook, kwargs, steps, tables',
    [  # 4 iterations an epoch
        (dict(interval=3), dict(epochs=2), [3, 4, 6, 8], [4, 8]),
        (dict(interval=2), dict(epochs=2), [2, 4, 6, 8], [4, 8]),
        (dict(interval=2), dict(iters=6), [2, 4, 6], [6]),
        (dict(interval=2, stop_at=dict(collapsed=0.05)), dict(iters=16), [2], []),
    ],
)
def test_reports_come_at_intervals_and_with_a_table_at_epoch_ends_each_once(
    tmp_path, hook, kwargs, steps, tables
):
    runner, messages = watch(tmp_path, hook=HOOK | dict(measures=['collapsed']) | hook, **kwargs)
    records = scalars(runner)
    assert [r['step'] for r in records] == steps and runner.iter == steps[-1]
    assert {(r['sparsity/collapsed'], r['sparsity/collapsed_fraction']) for r in records} == {
        (3, 3 / 48)
    }
    *reports, run_end = lines_of(messages)
    assert ['blocks.0.bn1' in line for line in reports] == [step in tables for step in steps]
    assert 'by layer:' in run_end


def test_the_log_has_a_line_a_table_and_the_counts_at_the_end(tmp_path):
    lines = lines_of(watch(tmp_path, epochs=1)[1])
    assert '3 of 48 filters collapsed (|gamma| < 0.001), 6.25%' in lines[0]
    epoch_end, run_end = lines[-2:]
    assert 'blocks.0.bn1' in epoch_end and 'blocks.1.bn1' not in epoch_end
    head, *rows = (line.split() for line in run_end.splitlines()[1:])
    assert head == ['layer', 'channels', 'collapsed', 'dead']
    found = {row[0]: row[1:] for row in rows}
    assert found['blocks.0.bn1'] == ['12', '3', '(25.0%)', '3', '(25.0%)']
    assert found.keys() >= {'norm', 'blocks.0.bn2', 'blocks.1.bn1', 'blocks.1.bn2'}


def test_all_measures_and_further_thresholds(tmp_path):
    hook = dict(HOOK, measures=ALL_MEASURES, gamma_threshold=[1e-3, 1e-2, 3.0])
    runner, _ = watch(tmp_path, hook=hook, epochs=2)
    last = {k: v for r in scalars(runner, 'step') for k, v in r.items()}
    assert last['sparsity/collapsed_below_0.01_fraction'] == 3 / 48
    assert last['sparsity/collapsed_below_3_fraction'] == 1
    assert last['sparsity/hardly_active_fraction'] >= 3 / 48
    assert last['sparsity/mostly_zero_fraction'] >= last['sparsity/dead_fraction'] >= 3 / 48
    assert last['sparsity/revived'] == 0
    # stem, four convolutions 8x12, all 3x3 on 8x8, and a classifier; two of the four lose a quarter
    weights = [8 * 3 * 9, *[8 * 12 * 9] * 4]
    for name, size, fc in (('weight', 1, 32), ('flops', 64, 32)):
        whole = size * sum(weights) + fc
        expected = size * 2 * weights[1] * 3 / 12 / whole
        assert last[f'sparsity/{name}_sparsity'] == pytest.approx(expected)


def test_a_report_moves_data_off_the_device_once(tmp_path, monkeypatch):
    moved, to_cpu = [], torch.Tensor.cpu

    def counted(tensor):
        moved.append(tensor.numel())
        return to_cpu(tensor)

    runner, _ = watch(tmp_path, epochs=1)
    monkeypatch.setattr(torch.Tensor, 'cpu', counted)
    hook_of(runner, SparsityHook)._read(runner, with_data=False)
    assert moved == [2 * 48]


def test_nan_gamma_is_reported_with_its_layer_and_not_as_collapsed(tmp_path):
    def poison(runner):
        runner.model.blocks[1].bn2.weight.data[0] = float('nan')

    runner, messages = watch(tmp_path, poison, epochs=1)
    assert 'blocks.1.bn2: gamma is NaN or inf' in messages
    assert scalars(runner)[0]['sparsity/collapsed'] == 0


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


@pytest.mark.parametrize(
    'measure, kwargs, first, last',
    [
        ('collapsed', dict(), '3 of 48', '0 of 45'),
        (
            'dead',  # of a layer without a norm
            dict(prepare=killing(), model=dict(type='HiddenNet'), layers='hidden'),
            '5 of 10',
            '0 of 5',
        ),
    ],
)
def test_it_follows_a_model_that_is_pruned(tmp_path, measure, kwargs, first, last):
    hook = dict(HOOK, measures=[measure], layers=kwargs.pop('layers', None))
    _, messages = watch(tmp_path, hooks=[demp(num_samples=8)], hook=hook, epochs=2, **kwargs)
    lines = [m for m in messages if f'filters {measure}' in m]
    assert f'{first} filters' in lines[0] and f'{last} filters' in lines[-1]


@pytest.mark.parametrize(
    'batch, message',
    [
        ((1, 2), 'a batch must be a dict'),
        (dict(inputs=dict(sup=[])), "a batch's 'inputs' must be one tensor or a list of pictures"),
        (dict(inputs=None), "a batch's 'inputs' must be one tensor or a list of pictures, got Non"),
        (dict(inputs=[]), "data_preprocessor must return 'inputs' as one tensor, got list"),
        (dict(inputs=torch.zeros(0, 3, 8, 8)), 'no activation was observed'),
        (dict(inputs=torch.zeros(2, 2, 8, 8)), 'Given groups=1'),
    ],
)
def test_odd_batches_end_no_run_and_the_weights_are_read(tmp_path, batch, message):
    runner, messages = watch(tmp_path, epochs=1)
    hook = hook_of(runner, SparsityHook)
    for size in (hook._watch._size, 0):  # at a look, and at a trace
        hook._watch._size = size
        hook._batches.extend([batch] * 2)
        messages.clear()
        assert hook._read(runner, with_data=True).counts['collapsed'].total == (3, 48)
        assert any(message in m for m in messages)


# ---------------------------------------------------------------- activations
def test_dead_channels_are_those_that_are_0_where_they_are_read(tmp_path):
    runner, messages = watch(tmp_path, hook=dict(HOOK, measures=['dead', 'universality']), epochs=1)
    model = runner.model.eval()
    inputs = torch.cat([batch['inputs'] for batch in hook_of(runner, SparsityHook)._batches])
    with torch.no_grad():
        x = F.relu(model.norm(model.stem(inputs)))
        seen = [x]
        for block in model.blocks:
            inner = F.relu(block.bn1(block.conv1(x)))
            x = F.relu(x + block.bn2(block.conv2(inner)))
            seen += [inner, x]
    dead = sum(int((a.amax((0, 2, 3)) == 0).sum()) for a in seen)
    (record,) = scalars(runner, 'sparsity/dead_fraction')
    assert record['sparsity/dead_fraction'] == dead / 48 and dead >= 3
    tops = [a.amax((2, 3)) for a in seen]
    universality = torch.cat([(t > 1e-3 * t.amax(0)).double().mean(0) for t in tops]).mean()
    assert record['sparsity/universality'] == pytest.approx(float(universality), abs=0.01)
    assert 'sparsity/collapsed' not in record
    assert f'{dead} of 48 filters dead' in lines_of(messages)[-1]


@pytest.mark.parametrize('length', [dict(epochs=4), dict(iters=16)])  # an epoch: once the data
@pytest.mark.parametrize('interval, steps', [(1, [4, 8, 12, 16]), (2, [8, 16])])
def test_activations_are_looked_at_every_so_many_epochs(tmp_path, interval, steps, length):
    hook = dict(HOOK, interval=100, activations=dict(interval_epochs=interval))
    runner, _ = watch(tmp_path, hook=hook, **length)
    assert [r['step'] for r in scalars(runner, 'sparsity/dead_fraction')] == steps


@pytest.mark.parametrize(
    'settings, epoch_length, epochs',
    [
        ({}, 100, 2),
        ({}, 4, 50),
        ({}, 7330, 1),
        (dict(num_batches=1), 100, 1),
        (dict(interval_epochs=3), 100, 3),
    ],
)
def test_by_default_short_epochs_are_joined(settings, epoch_length, epochs):
    assert ActivationSettings(**settings).interval(epoch_length) == epochs * epoch_length


def test_what_is_looked_at_is_the_last_batches_or_a_loader(tmp_path, monkeypatch):
    seen, read = [], ChannelWatch.read_activations

    def spy(self, runner, batches):
        batches = list(batches)
        seen.append(torch.cat([batch['inputs'] for batch in batches]))
        return read(self, runner, batches)

    monkeypatch.setattr(ChannelWatch, 'read_activations', spy)
    watch(tmp_path / 'a', hook=dict(HOOK, activations=dict(EVERY_EPOCH, num_batches=3)), epochs=1)
    assert [len(x) for x in seen] == [24, 24]  # at the end of the epoch and of training
    data = ToyData()
    rows = {tuple(x.flatten().tolist()) for x in data.inputs}
    assert all(tuple(x.flatten().tolist()) in rows for x in seen[0])
    seen.clear()
    settings = dict(EVERY_EPOCH, loader=loader_of(data, batch_size=5))
    watch(tmp_path / 'b', hook=dict(HOOK, activations=settings), epochs=2)
    assert len(seen) == 3 and all(torch.equal(x, data.inputs[:10]) for x in seen)


class RandomData(ToyData):
    """Draws from every global generator, as transforms do."""

    def __getitem__(self, i):
        picture = super().__getitem__(i)
        draws = random.random() + np.random.rand() + float(torch.rand(()))
        return dict(picture, inputs=picture['inputs'] + draws)


@pytest.mark.parametrize('loader', [None, loader_of(RandomData(length=4))])
def test_looking_draws_no_random_number_of_the_run(tmp_path, loader):
    runner, _ = watch(tmp_path, hook=dict(HOOK, activations=dict(loader=loader)), epochs=1)

    def states():
        return str((torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()))

    before = states()
    reading = hook_of(runner, SparsityHook)._read(runner, with_data=True)
    assert reading.counts['dead'].total[1] == 48 and states() == before


def test_looking_changes_nothing_in_the_run(tmp_path):
    every = dict(HOOK, interval=1, measures=list(ALL_MEASURES))
    with_hook, _ = watch(tmp_path / 'a', hook=every, epochs=2)
    other = dict(type='PrunedCheckpointHook')  # with which random numbers are set alike
    without, _ = watch(tmp_path / 'b', hook=other, epochs=2)
    assert_same(snapshot(with_hook.model), snapshot(without.model))
    assert with_hook.model.training == without.model.training


def test_revivals_and_overlap_from_look_to_look():
    revival = Revival()

    def looked_at(*dead, channels=4):
        mask = torch.zeros(channels, dtype=torch.bool)
        mask[list(dead)] = True
        return revival.update(dict(a=mask))

    assert looked_at(0, 1) == {}
    assert looked_at(1, 2) == dict(revived=1, dead_overlap=1 / 2)  # {0, 1} and now {1, 2}
    assert looked_at(0, 3) == dict(revived=2, dead_overlap=1 / 2)  # {0, 1, 2} and now {0, 3}
    assert looked_at(0, channels=3) == {}  # pruned since


def test_two_hooks_watch_one_training_under_their_names(tmp_path):
    every, few = (
        dict(HOOK, name=name, measures=['dead'], activations=dict(EVERY_EPOCH, num_batches=count))
        for name, count in (('every', 4), ('few', 1))
    )
    runner, messages = watch(tmp_path, hooks=[every], hook=few, epochs=2)
    found = [scalars(runner, f'sparsity/{name}/dead_fraction') for name in ('every', 'few')]
    assert [[record['step'] for record in of] for of in found] == [[4, 8]] * 2
    for line in ('sparsity every: ', 'sparsity few: '):
        assert sum(message.startswith(line) for message in messages) >= 2
    hooks = [hook for hook in runner.hooks if isinstance(hook, SparsityHook)]
    assert [len(hook._batches) for hook in hooks] == [4, 1]


def test_only_the_layers_of_the_patterns_are_looked_at(tmp_path):
    runner, messages = watch(tmp_path, hook=dict(HOOK, layers=['blocks.0.*', 'norm']), epochs=1)
    assert scalars(runner)[-1]['sparsity/collapsed_fraction'] == 3 / (12 + 8 + 8)
    assert not any('blocks.1' in m for m in messages)
    with pytest.raises(ValueError, match=r"layers: 'block\.\*' fits no layer of ToyNet"):
        watch(tmp_path / 'b', hook=dict(HOOK, layers='block.*'))
    _, messages = watch(tmp_path / 'c', hook=dict(HOOK, layers=['norm', '*.conv1']), epochs=1)
    assert [m for m in messages if m.startswith('layers:')] == [
        "layers: '*.conv1' fits no layer that is counted: name the norm layer behind a convolution"
    ]


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(interval=0), 'interval must be an int >= 1, got 0'),
        (dict(gamma_threshold=[1e-3, 0]), r'gamma_threshold must be > 0 and finite, got \[0.001, '),
        (dict(gamma_threshold='1e-3'), "gamma_threshold must be > 0 and finite, got '1e-3'"),
        (dict(gamma_threshold=[]), r'gamma_threshold must be > 0 and finite, got \[\]'),
        (dict(measures=['colapsed']), r"measures must be some of .* got \['colapsed'\]"),
        (dict(measures=[]), 'measures must be some of'),
        (dict(name=3), 'name must be a string, got 3'),
        (dict(warn_at=dict(flops_sparsity=0.1)), "warn_at has no 'flops_sparsity'"),
        (dict(warn_at=dict(mostly_zero=0.1)), "warn_at has no 'mostly_zero'"),
        (dict(stop_at=dict(dead=1.5)), r"stop_at\['dead'\] must be a share in \(0, 1\], got 1.5"),
        (dict(warn_at=0.05), 'warn_at must be a dict of'),
        (dict(activations=dict(num_batches=0)), 'activations num_batches must be an int >= 1'),
        (dict(activations=dict(eps=-1)), 'activations eps must be a finite number >= 0, got -1'),
        (dict(activations=dict(loader='val')), "activations loader must be .* got 'val'"),
        (dict(activations=dict(batches=2)), r"no \['batches'\] .*'num_batches'.*; allowed are"),
        (dict(activations=dict(interval=2)), r"no \['interval'\] .*'interval_epochs'"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        SparsityHook(**setting)


# ---------------------------------------------------------------- ranks
def watch_on_a_rank(work_dir):
    """Channel 1 dead everywhere, channel 3 on the first rank alone."""
    hook = dict(HOOK, interval=100, measures=['collapsed', 'dead', 'universality'])
    runner = toy_runner(f'{work_dir}/r', [hook], epochs=1, **ON_RANKS)
    layer = bare_model(runner).blocks[0].bn1
    kill_channels(layer, [1, 3])

    def revive(module, args, output):
        output[:, 3] = 1.0

    if get_rank() == 1:
        layer.register_forward_hook(revive)
    runner.train()
    hook = hook_of(runner, SparsityHook)
    reading = hook._read(runner, with_data=True)
    own = torch.cat([batch['inputs'] for batch in hook._batches])
    return reading.counts['dead'].masks['blocks.0.bn1'], reading.values['universality'], own


def watch_where_a_rank_fails(work_dir, samples):
    """At a trace, which takes one sample, or at a look, which takes all."""
    runner = toy_runner(f'{work_dir}/r{samples}', [dict(HOOK)], epochs=2, **ON_RANKS)

    def fail(module, args):
        if get_rank() == 1 and not module.training and len(args[0]) == samples:
            raise RuntimeError('out of memory')

    bare_model(runner).stem.register_forward_pre_hook(fail)
    runner.train()
    return runner.iter, hook_of(runner, SparsityHook)._watch.graph is not None


def on_a_rank(work_dir):
    failing = [watch_where_a_rank_fails(work_dir, samples) for samples in (1, 4)]
    return watch_on_a_rank(work_dir), failing


def test_on_ranks_dead_is_what_is_dead_on_all_and_none_waits_where_one_fails(tmp_path):
    found = run_on_ranks(on_a_rank, 2, tmp_path, str(tmp_path))
    ((dead, universality, ours), failing), ((same, also, theirs), failing_too) = found
    assert not torch.equal(ours, theirs)
    assert dead.nonzero().flatten().tolist() == [1] and torch.equal(dead, same)
    assert universality == also
    assert failing == failing_too == [(8, False), (8, True)]
