import json
from pathlib import Path

import pytest
import torch
from toy import kill_channels, toy_runner

from mmpsbn.engine import SparsityHook

HOOK = dict(type='SparsityHook', interval=2, gamma_threshold=1e-3)


def collapse(runner, channels=(0, 1, 2)):
    layer = runner.model.blocks[0].bn1
    kill_channels(layer, list(channels))


def train(work_dir, hooks=(HOOK,), prepare=collapse, **kwargs):
    runner = toy_runner(work_dir, [dict(h) for h in hooks], **kwargs)
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


def scalars(runner):
    path = Path(runner.log_dir) / 'vis_data/scalars.json'
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if 'sparsity/collapsed' in r]


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
    row = next(line for line in run_end.splitlines() if line.startswith('blocks.0.bn1'))
    assert row.split() == ['blocks.0.bn1', '3', '12', '25.0%']


def test_a_report_moves_data_off_the_device_once(tmp_path, monkeypatch):
    moved = []
    to_cpu = torch.Tensor.cpu

    def counted(tensor):
        moved.append(tensor.numel())
        return to_cpu(tensor)

    from mmpsbn.pruning import measure_sparsity

    runner, _ = train(tmp_path, epochs=1)
    monkeypatch.setattr(torch.Tensor, 'cpu', counted)
    measure_sparsity(runner.model, threshold=1e-3)
    assert moved == [48]


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
        noise=dict(peak_var=0.0),
        prune=dict(interval=3, num_samples=8),
    )
    runner, messages = train(tmp_path, [HOOK, demp], epochs=2)
    records = scalars(runner)
    assert records[0]['sparsity/collapsed'] == 3
    assert records[-1]['sparsity/collapsed'] == 0
    last = [m for m in messages if m.startswith('sparsity:')][-1]
    assert '0 of 45 filters' in last


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
    hook = next(h for h in runner.hooks if isinstance(h, SparsityHook))
    hook._batch, hook._channels = (1, 2), 0
    report = hook._measure(runner)
    assert report.flops_sparsity is None and report.totals == (3, 48)
    assert any('no FLOPs sparsity in the reports: a batch must be a dict' in m for m in messages)


def test_an_epoch_that_ends_with_an_interval_is_reported_once(tmp_path):
    runner, _ = train(tmp_path, [dict(HOOK, interval=2)], epochs=2)
    assert [r['step'] for r in scalars(runner)] == [2, 4, 6, 8]
