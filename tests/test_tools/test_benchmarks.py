"""The benchmarks run, and their ratios follow from the times they measured.

The clock is the test's own, never a real one.
"""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from mmpsbn.pruning.forward import tensors_in

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Time passes when the test says so, and by ``per_reading`` at each reading: what takes no
    other time takes that."""

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
def rows_of(benchmark, monkeypatch, capsys):
    """Run a benchmark by a clock of one second a reading: the cells of its table, by their first
    ones, and all that it printed."""

    def run(name, options, clock=None):
        clock = clock or Clock(per_reading=1.0)
        monkeypatch.setattr(benchmark('timing'), 'wall_clock', lambda has_gpu: clock())
        benchmark(name).main(f'{options} --rounds 2 --min-seconds 0'.split())
        printed = capsys.readouterr().out
        assert printed.startswith('clock: wall, seed: 0, ')
        assert f'torch: {torch.__version__}' in printed
        table = [line[2:-2].split(' | ') for line in printed.splitlines() if line[:2] == '| ']
        return table[2:], printed

    return run


def test_ratios_are_taken_within_rounds(benchmark):
    seconds = dict(a=[2.0, 3.0, 80.0], b=[1.0, 1.0, 20.0])
    assert str(benchmark('timing').ratio(seconds, 'a', 'b')) == '3.000 [2.500, 3.500]'


def test_candidates_take_turns(benchmark):
    clock, calls = Clock(), []

    def candidate(name, seconds):
        def run():
            calls.append(name)
            clock.now += seconds

        return run

    expected = dict(a=1.0, b=2.0, c=4.0)
    bench = benchmark('timing').Bench(rounds=5, min_seconds=0.0, seed=0, clock=clock)
    runs = {name: candidate(name, seconds) for name, seconds in expected.items()}
    assert bench.side_by_side(runs) == {name: [s] * 5 for name, s in expected.items()}
    rounds = [calls[i : i + 6] for i in range(0, len(calls), 6)]  # each untimed, then timed
    assert len(rounds) == 5 and all(sorted(names) == [*'aabbcc'] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


@pytest.mark.slow
def test_norm_overhead_prints_the_ratios_it_measured(benchmark, rows_of, monkeypatch):
    clock = Clock(per_reading=1.0)

    def layer(seconds):
        class Layer(nn.BatchNorm2d):
            def forward(self, x):
                clock.now += seconds
                return super().forward(x)

        return Layer

    seconds = {'BN': 1.0, 'psBN': 1.5, 'naive': 2.0, 'BN again': 1.0}
    layers = {name: layer(s) for name, s in seconds.items()}
    monkeypatch.setattr(benchmark('norm_overhead'), 'LAYERS', layers)
    options = '--device cpu --shapes 2x4x3x3 1x8x4x4 --depth 18'
    rows, printed = rows_of('norm_overhead', options, clock)
    modes = [
        f'{mode}, {shape}' for mode in ('train', 'norm_eval') for shape in options.split()[3:5]
    ]
    ratios = [f'{value:.3f} [{value:.3f}, {value:.3f}]' for value in (1.25, 1.5, 1.0)]
    milliseconds = ['2000.00', '2500.00', '3000.00', '2000.00']
    assert rows[:-1] == [[mode, *milliseconds, *ratios] for mode in modes]
    assert rows[-1][0] == 'SGD step of RetinaNet-R18' and rows[-1][5] == ratios[2]
    assert 'median over rows 1.250, worst row 1.250; target 1.02: MISSED' in printed


@pytest.mark.slow
def test_hook_overhead_times_each_callback_once(rows_of, small):
    """A timed call takes a second, and so does a plain iteration."""
    config = small / 'small.py'
    options = f'--config {config} --size 64 64 --batch-size 2'
    options += f' --event-config {config} --event-side 64 --events 1'
    rows, printed = rows_of('hook_overhead', options)
    own = {name: float(ms) / 1000 for name, ms, *_ in rows}
    # before and after the iteration, before and after the optimizer's step
    assert own.pop('DemPHook between events') == 4
    assert own.pop('DemPHook in the window') > 4 + 10  # and each layer that reads channels
    assert own.pop('DemPHook before a cut to a budget') == 3  # nothing after the step
    assert list(own.values()) == [2, 2, 2] and all('SparsityHook' in name for name in own)
    assert 'plain iteration 1000.0 ms' in printed
    assert 'SparsityHook at its default intervals: 200.000%' in printed
    assert 'DemPHook between events: 400.00%, target 3 %' in printed
    event = printed.splitlines()[-1]
    before, after = (int(n.replace(',', '')) for n in event.split()[2:5:2])
    assert event.startswith('prune event, ') and event.endswith(' parameters: 1.00 s, target 3 s')
    assert after < before


@pytest.mark.slow
def test_pruned_speed_prints_every_row(rows_of):
    options = '--models resnet18 --sparsity 0.5 0.9 --round-to 1 8 --batch 2 --device cpu'
    rows, _ = rows_of('pruned_speed', f'{options} --format channels_last')
    same = '1.000 [1.000, 1.000]'
    settings = [(s, r) for r in (1, 8) for s in (0.5, 0.9)]
    assert len(rows) == 2 * len(settings)
    for row, (phase, (sparsity, round_to)) in zip(
        rows, [(p, at) for p in ('training', 'inference') for at in settings]
    ):
        assert row[:2] == ['resnet18 2x32x32', phase] and row[3] == str(round_to)
        assert float(row[2].rstrip('%')) / 100 == pytest.approx(sparsity, abs=0.02)
        # inner layers lose the square of what the first and the last one lose
        assert 1 < float(row[4]) < 1.15 / (1 - sparsity)
        assert row[5:7] == ['1000.0 -> 1000.0', same] and row[8] == same
        assert float(row[7].split()[0]) == pytest.approx(1 / float(row[4]), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'retinanet'])
def test_torch_pruning_cuts_the_same_channels(benchmark, name):
    speed = benchmark('pruned_speed')
    torch.manual_seed(0)
    dense, image = speed.CASES[name][0](), torch.randn(1, 3, 64, 64)
    copies, macs = speed.pruned_copies(dense, image, sparsities=[0.8], round_to=8, seed=0)
    ours, plan = copies[0.8]
    theirs = speed.prune_as_torch_pruning(dense, image, plan)
    widths = [{k: t.shape for k, t in m.state_dict().items()} for m in (dense, ours, theirs)]
    assert widths[1] == widths[2] != widths[0]
    assert speed.weights_of(ours) / speed.weights_of(dense) == pytest.approx(0.2, abs=0.01)
    assert macs(ours) < 0.4 * macs(dense)
    with torch.no_grad():
        for a, b in zip(tensors_in(ours.eval()(image)), tensors_in(theirs.eval()(image))):
            torch.testing.assert_close(a, b)
