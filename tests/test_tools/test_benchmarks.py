"""The benchmarks run, and their tables follow from the times they measured.

The clock is the test's own, never a real one.
"""

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mmpsbn.pruning.forward import tensors_in

ROOT = Path(__file__).resolve().parents[2]
SMALL_MODEL = str(ROOT / 'configs/bccd/retinanet_r18_bn_bccd.py')

counts_memory = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 2),
    reason='torch 2.1 crashes at exit once the storages of a process were counted',
)


class Clock:
    """Time passes when the test says so, and by ``per_reading`` at each reading."""

    def __init__(self, per_reading=0.0):
        self.now = 0.0
        self.per_reading = per_reading

    def __call__(self):
        self.now += self.per_reading
        return self.now


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/benchmarks'))
    return importlib.import_module


@pytest.fixture
def use_clock(benchmark, monkeypatch):

    def put(clock):
        monkeypatch.setattr(benchmark('timing'), 'clock', clock)
        return clock

    return put


def test_ratios_are_taken_within_rounds(benchmark):
    times = dict(a=[2.0, 3.0, 80.0], b=[1.0, 1.0, 20.0])
    assert benchmark('timing').ratio(times, 'a', 'b') == dict(median=3.0, q1=2.5, q3=3.5)


def test_candidates_take_turns_and_warmup_is_dropped(benchmark, use_clock):
    clock, calls = use_clock(Clock()), []

    def candidate(name, seconds):

        def run():
            calls.append(name)
            clock.now += seconds * len(calls)  # the machine gets slower all the time

        return run

    seconds = dict(a=1.0, b=2.0, c=4.0)
    times = benchmark('timing').interleave(
        {name: candidate(name, s) for name, s in seconds.items()}, rounds=5, warmup=2, seed=0
    )
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 7 and all(sorted(names) == ['a', 'b', 'c'] for names in rounds)
    for r, names in enumerate(rounds[2:], 2):
        for position, name in enumerate(names, 1):
            assert times[name][r - 2] == pytest.approx(seconds[name] * (3 * r + position))


def test_a_stopwatch_adds_up_by_name(benchmark, use_clock):
    clock = use_clock(Clock())
    watch = benchmark('timing').Stopwatch()

    def work(seconds):
        clock.now += seconds
        return seconds

    read, write = watch.timed('read', work), watch.timed('write', work)
    assert (read(1.0), write(4.0), read(2.0)) == (1.0, 4.0, 2.0)
    assert watch.lap() == dict(read=3.0, write=4.0)
    assert watch.lap() == {}


def layer_of(clock, seconds):

    class Layer(nn.BatchNorm2d):
        def forward(self, x):
            clock.now += seconds
            return super().forward(x)

    return Layer


@counts_memory
def test_norm_overhead_reports_the_ratios_it_measured(
    benchmark, use_clock, monkeypatch, tmp_path, capsys
):
    norm_overhead = benchmark('norm_overhead')
    clock = use_clock(Clock())
    seconds = {'BN': 2.0, 'psBN': 2.5, 'naive': 3.0, 'BN again': 2.0}
    monkeypatch.setattr(
        norm_overhead, 'CANDIDATES', {name: layer_of(clock, s) for name, s in seconds.items()}
    )
    steps = dict(ms=dict(BN=1.0, psBN=1.0), ratio={n: dict(median=1.0) for n in seconds})
    monkeypatch.setattr(norm_overhead, 'measure_step', lambda *_: steps)
    norm_overhead.main(
        [
            '--devices',
            'cpu',
            '--shapes',
            '2x4x3x3',
            '1x8x4x4',
            '--rounds',
            '3',
            '--warmup',
            '1',
            '--json',
            str(tmp_path / 'out.json'),
        ]
    )
    report = json.loads((tmp_path / 'out.json').read_text())
    assert report['machine']['torch'] == torch.__version__ and report['machine']['seed'] == 0
    rows = report['rows']
    assert [(row['mode'], row['shape']) for row in rows] == [
        (mode, shape) for mode in ('train', 'norm_eval') for shape in ('2x4x3x3', '1x8x4x4')
    ]
    for row in rows:
        assert row['ms'] == {name: pytest.approx(1000 * s) for name, s in seconds.items()}
        for name, found in row['ratio'].items():
            assert found == {
                key: pytest.approx(seconds[name] / 2) for key in ('median', 'q1', 'q3', 'best')
            }
    printed = capsys.readouterr().out
    assert (
        printed.count('1.250 [1.250, 1.250] 1.250')
        == printed.count('1.500 [1.500, 1.500] 1.500')
        == 4
    )
    assert printed.count('MISSED: slower') == 4
    assert 'median over rows 1.250, worst row 1.250, target 1.02' in printed


@counts_memory
def test_norm_overhead_counts_memory(benchmark):
    norm_overhead = benchmark('norm_overhead')
    row = norm_overhead.measure('cpu', (2, 64, 32, 32), 'train', rounds=1, warmup=0, seed=0)
    feature_map = 2 * 64 * 32 * 32 * 4
    forward, both = row['forward_peak_bytes'], row['peak_bytes']
    assert forward['BN'] >= feature_map and both['BN'] >= 2 * feature_map
    assert forward['naive'] - forward['BN'] == pytest.approx(feature_map, rel=0.01)
    for peak in (forward, both):
        assert 0 <= peak['psBN'] - peak['BN'] <= 2 * 64 * 4


def test_norm_overhead_measures_the_step(benchmark):
    step = benchmark('norm_overhead').measure_step(rounds=2, warmup=0, seed=0, depth=18)
    assert all(step['ms'][name] > 0 for name in ('BN', 'psBN', 'BN again'))
    assert set(step['ratio']) == {'psBN', 'BN again'}


def test_shares_of_the_hooks(benchmark):
    hook_overhead = benchmark('hook_overhead')
    laps = [dict(a=1.0), dict(a=1.0, b=9.0), dict(a=2.0), dict(a=1.0, b=11.0)]
    assert hook_overhead.own_seconds(laps, interval=2) == dict(
        at=11.0, off=1.5, by_part=dict(a=1.0, b=4.5)
    )
    share = hook_overhead.sparsity_share(0.5, 0.01, 3.0, 2.0, interval=100, between=150)
    assert share == pytest.approx((0.5 + 99 * 0.01) / 200 + 3 / 300)
    shares = hook_overhead.demp_shares(0.03, 0.08, 1.0)
    assert shares == dict(
        between=0.03,
        window=0.08,
        statistics=pytest.approx(0.05 * 32 / 5000),
        amortised=pytest.approx(0.03 + 0.05 * 32 / 5000),
    )


def test_hook_overhead_times_each_callback_once(benchmark, use_clock, tmp_path, capsys):
    """A second passes at each reading of the clock, so a timed call takes one."""
    use_clock(Clock(per_reading=1.0))
    benchmark('hook_overhead').main(
        [
            '--config',
            SMALL_MODEL,
            '--size',
            '64',
            '64',
            '--batch-size',
            '2',
            '--rounds',
            '2',
            '--block',
            '2',
            '--event-config',
            SMALL_MODEL,
            '--event-side',
            '64',
            '--events',
            '1',
            '--json',
            str(tmp_path / 'out.json'),
        ]
    )
    report = json.loads((tmp_path / 'out.json').read_text())
    hooks = report['hooks']
    rows = {row['name']: row for row in hooks['rows']}
    assert list(rows) == ['SparsityHook', 'DemPHook between events', 'DemPHook in the window']
    assert (
        hooks['iteration_ms'] == 500
    )  # nothing is timed in a block of two plain iterations but the block
    assert hooks['report_ms'] == 2000  # before_train_iter and after_train_iter
    assert hooks['look_ms'] == 1000
    assert rows['SparsityHook']['share'] == (2 + 99 * 2) / (100 * 0.5) + 1 / (200 * 0.5)
    between = rows['DemPHook between events']
    assert between['own_ms_by_part'] == dict(
        before_train_iter=1000, after_train_iter=1000, **{'optimizer step': 2000}
    )
    assert between['own_ms'] == 4000 and between['share'] == 8
    window = rows['DemPHook in the window']
    readers = window['own_ms_by_part']['forward hooks']
    assert (
        readers > 10000
        and window['own_ms'] == 4000 + readers
        and window['share'] == window['own_ms'] / 500
    )
    assert (
        between['block_ratio']['median'] == 1 + 2 * 8
    )  # two readings around each of 4 calls in 2 iterations

    seconds = report['event']['seconds']
    assert list(seconds) == ['event', *benchmark('hook_overhead').EVENT_STAGES]
    assert seconds['event']['median'] > sum(
        s['median'] for name, s in seconds.items() if name[0] != ' ' and name != 'event'
    )
    assert all(s['median'] > 0 for s in seconds.values())
    assert report['event']['params_after'] < report['event']['params_before']

    printed = capsys.readouterr().out
    for name in (*rows, *seconds):
        assert f'\n{name}' in printed, name
    assert 'DemPHook between events: 800.00%, target 3.00%: MISSED' in printed


def pruned_speed_report(benchmark, tmp_path, *options):
    path = tmp_path / 'out.json'
    benchmark('pruned_speed').main(
        ['--repeats', '1', '--warmup', '0', '--device', 'cpu', '--json', str(path), *options]
    )
    return json.loads(path.read_text())


@counts_memory
def test_pruned_speed_has_every_row_with_its_sparsity_and_macs(
    benchmark, use_clock, tmp_path, capsys
):
    """A second passes at each reading of the clock, so every run takes one."""
    use_clock(Clock(per_reading=1.0))
    out = tmp_path / 'tables.md'
    options = '--models resnet18 vgg16 --sparsity 0.5 0.9 --round-to 1 8 --channels-last --batch 2'
    report = pruned_speed_report(benchmark, tmp_path, *options.split(), '--out', str(out))
    rows = report['rows']
    assert [(r['model'], r['format'], r['sparsity'], r['round_to']) for r in rows] == [
        (model, form, sparsity, round_to)
        for model in ('resnet18', 'vgg16')
        for form in ('contiguous', 'channels_last')
        for sparsity in (0.5, 0.9)
        for round_to in (1, 8)
    ]
    for row in rows:
        assert row['weights_removed'] == pytest.approx(row['sparsity'], abs=0.02)
        # inner layers lose the square of what the first and the last one lose
        assert 1 < row['macs_gain'] < 1.15 / (1 - row['sparsity'])
        assert row['error_to_torch_pruning'] < 1e-5
        for phase in ('training', 'inference'):
            found = row[phase]
            assert found['gain']['median'] == found['to_torch_pruning']['median'] == 1
            assert found['efficiency'] == pytest.approx(1 / row['macs_gain'])
            dense_peak, peak = found['peak_bytes']
            assert 0 < peak < dense_peak
            assert all(0 < share < 1 for share in found['conv_share'])
    lines = out.read_text().splitlines()
    assert lines[0].startswith('cpu: ') and 'seed: 0' in lines[0]
    assert (
        sum(line.startswith('| resnet18') for line in lines) == 2 * 8 + 4
    )  # training, inference, surgery
    assert '\n'.join(lines[2:]) in capsys.readouterr().out


@pytest.mark.parametrize('name', ['resnet18', 'retinanet'])
def test_torch_pruning_cuts_the_same_channels(benchmark, name):
    models = benchmark('pruned_models')
    torch.manual_seed(0)
    dense = models.CASES[name].build()
    image = torch.randn(1, 3, 64, 64)
    pruning = models.Pruning(dense, image, criterion='l1', seed=0)
    masks = pruning.keep_masks(weight_sparsity=0.8, round_to=8)
    (ours, _), (theirs, *_) = pruning.cut(masks), pruning.cut_by_torch_pruning(masks)
    assert models.widths_of(ours) == models.widths_of(theirs) != models.widths_of(dense)
    weights = [m.weight for m in ours.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert models.weights_of(ours) == sum(weight.numel() for weight in weights)
    assert models.weights_of(ours) / models.weights_of(dense) == pytest.approx(0.2, abs=0.01)
    with torch.no_grad():
        for a, b in zip(tensors_in(ours.eval()(image)), tensors_in(theirs.eval()(image))):
            torch.testing.assert_close(a, b)


def test_macs_of_a_pruned_model_are_counted_by_hand(benchmark):
    models = benchmark('pruned_models')
    dense = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    pruning = models.Pruning(dense, torch.randn(1, 3, 8, 8), criterion='l1', seed=0)
    ours, _ = pruning.cut({'0': torch.arange(16) % 4 == 0})
    assert models.widths_of(ours)['0.weight'] == (4, 3, 3, 3)
    assert pruning.macs(dense) == 8 * 8 * (16 * 27 + 4 * 16)
    assert pruning.macs(ours) == 8 * 8 * (4 * 27 + 4 * 4)


def test_every_way_of_adding_a_narrow_branch_gives_the_plain_result(benchmark):
    indexed_add = benchmark('indexed_add')
    for kernel in indexed_add.KERNELS:
        full, narrow = indexed_add.branches(8, kernel, 0.5, torch.Generator().manual_seed(0))
        assert narrow.conv.weight.shape[0] == 4
        x, stream = torch.randn(2, full.conv.in_channels, 5, 5), torch.randn(2, 8, 5, 5)
        plain = full(x, stream, 'plain')
        for way in indexed_add.WAYS[1:]:
            torch.testing.assert_close(narrow(x, stream.clone(), way), plain, msg=way)


@counts_memory
def test_indexed_add_has_every_row(benchmark, use_clock, monkeypatch, tmp_path, capsys):
    use_clock(Clock(per_reading=1.0))
    indexed_add = benchmark('indexed_add')
    monkeypatch.setattr(indexed_add, 'SIZES', ((8, 4), (16, 2)))
    monkeypatch.setattr(indexed_add, 'BATCHES', (1, 2))
    monkeypatch.setattr(indexed_add, 'WORK', 1)
    report = pruned_speed_report(benchmark, tmp_path, '--models', '--indexed-add')
    rows = report['indexed']
    assert len(rows) == 2 * 2 * 2 * 2 * 4
    assert all(ratio == 1 for row in rows for ratio in row['ratio'].values())
    printed = capsys.readouterr().out
    assert printed.count('| training |') == printed.count('| inference |') == 2 * 2 * 2
    assert printed.count('1.00 / 1.00 / 1.00') == 2 * 2 * 2 * 4


def test_speed_of_a_convolution_by_width(benchmark, use_clock, capsys):
    """A second passes at each reading of the clock, so every step takes one."""
    use_clock(Clock(per_reading=1.0))
    options = '--widths 4 2 --side 3 --batch 2 --repeats 1'
    conv_widths = benchmark('conv_widths')
    conv_widths.main(options.split())
    assert [line.split(' | ')[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        '| GMAC/s at width',
        '| ---',
        '| contiguous',
        '| channels_last',
    ]
    sizes = dict(widths=[4, 2], kernel=3, side=3, batch=2, repeats=1, seed=0)
    speed = conv_widths.measure(argparse.Namespace(**sizes))
    for form in conv_widths.FORMATS:  # forward and twice that backward, borders counted whole
        assert speed[form, 4] == pytest.approx(3 * 2 * 9 * 4 * 4 * 9 / 1e9)
        assert speed[form, 2] == pytest.approx(speed[form, 4] / 4)


def test_data_pipeline_reports_the_speedups_it_measured(benchmark, use_clock, tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    data_pipeline = benchmark('data_pipeline')
    clock = use_clock(Clock())
    seconds = {'in memory': 0.5, 'arrays, 0 workers': 4.0, 'files, 0 workers': 2.0}
    real_build, epochs_run = data_pipeline.build_pipelines, []

    def timed(name, run_epoch):
        def run():
            run_epoch()
            epochs_run.append(name)
            clock.now += seconds[name]

        return run

    def build_pipelines(*args):
        epochs, num_images = real_build(*args)
        return {name: timed(name, epoch) for name, epoch in epochs.items()}, num_images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_pipeline, 'build_pipelines', build_pipelines)
        out = tmp_path / 'out.json'
        data_pipeline.main(
            ['--num-images', '20', '--batch-size', '8', '--workers', '0', '--rounds', '2']
            + ['--json', str(out)]
        )
    assert sorted(epochs_run) == sorted([*seconds] * 3)
    report = json.loads(out.read_text())
    assert {row['pipeline']: row['images_per_second'] for row in report['rows']} == {
        'in memory': 40.0,
        'arrays, 0 workers': 5.0,
        'files, 0 workers': 10.0,
    }
    speedups = {row['pipeline']: row['speedup_of_ours']['median'] for row in report['rows']}
    assert speedups == {name: 2 * s for name, s in seconds.items()}
    assert 'least speed-up 4.0, target 5: MISSED' in capsys.readouterr().out
