"""The report's numbers against slow, obvious references and a case worked by hand."""

import csv
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from mmpsbn.analysis.report import Settings, write_report  # noqa: E402
from mmpsbn.analysis.report.numbers import layer_rows, totals  # noqa: E402
from mmpsbn.analysis.report.snapshot import take_snapshot  # noqa: E402
from mmpsbn.pruning import trace_channel_graph  # noqa: E402

SETTINGS = Settings(thresholds=(1e-3, 0.5), eps=1e-12, num_samples=10_000, score=True)


def forward(model, batch):
    return model(batch)


def trace(model, example):
    return trace_channel_graph(model, example, forward), example


def snapshot_of(model, batches=None, score=None, settings=SETTINGS, size=(3, 6, 6)):
    return take_snapshot(
        model.eval(),
        name='one',
        example=torch.randn(1, *size),
        trace=trace,
        forward_fn=forward,
        batches=batches,
        score=score,
        settings=settings,
        kept={},
        step=None,
    )


class Chain(nn.Module):
    """conv 3->4, BN, ReLU, conv 4->5, BN, ReLU, mean, linear 5->2, on 6x6 images: no padding, so
    4x4 and 2x2 positions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def chain():
    """Channel 1 of bn1 and 0 of bn2 have collapsed and are dead; 2 of bn1 is dead though its
    scale is 1; 3 of bn2 has collapsed and is a constant 1."""
    torch.manual_seed(0)
    model = Chain().eval()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([1.0, 1e-4, 1.0, 0.4]))
        model.bn1.bias.copy_(torch.tensor([0.5, -1.0, -99.0, 0.5]))
        model.bn2.weight.copy_(torch.tensor([0.0, 2.0, 2.0, -1e-9, 2.0]))
        model.bn2.bias.copy_(torch.tensor([-1.0, 9.0, 9.0, 1.0, 9.0]))
    return model


# of one image: conv1 16 positions x 4 x 27, conv2 4 positions x 5 x 36, linear 5 x 2
MACS = dict(conv1=1728, conv2=720, fc=10)


def test_a_case_worked_by_hand(chain):
    found = snapshot_of(chain, batches=[torch.randn(7, 3, 6, 6), torch.randn(4, 3, 6, 6)])
    rows = {row['layer']: row for row in layer_rows(found, SETTINGS)}
    assert list(rows) == ['bn1', 'bn2', 'fc']
    first, second, last = rows.values()
    assert [first[k] for k in ('writer', 'channels', 'collapsed_0.001', 'dead')] == [
        'conv1', 4, 1, 2
    ]  # fmt: skip
    assert [second[k] for k in ('channels', 'collapsed_0.001', 'dead')] == [5, 2, 1]
    assert (first['collapsed_0.5'], second['collapsed_0.5']) == (2, 2)
    # Phi(b / |gamma|): channels 1 and 2 of bn1, and 0 of bn2, whose gamma is exactly 0
    assert (first['hardly_active'], second['hardly_active']) == (2, 1)
    assert first['median_gamma'] == pytest.approx(0.4) and second['median_bias'] == 9
    assert second['mean_zero_share'] == pytest.approx(1 / 5)
    assert second['mean_universality'] == pytest.approx(4 / 5)
    assert last['channels'] is None and last['macs'] == 10
    assert {n: rows[w]['macs'] for n, w in (('conv1', 'bn1'), ('conv2', 'bn2'))} == {
        'conv1': 1728, 'conv2': 720
    }  # fmt: skip
    # half of conv1's filters; conv2 keeps 2 of 4 inputs and 4 of 5 filters; fc 4 of 5 inputs
    stake = dict(conv1=1728 / 2, conv2=720 * (1 - 0.5 * 0.8), fc=10 * 0.2)
    assert first['macs_at_stake'] == pytest.approx(stake['conv1'])
    assert second['macs_at_stake'] == pytest.approx(stake['conv2'])
    assert last['macs_at_stake'] == pytest.approx(stake['fc'])
    whole = totals(found, SETTINGS)
    expected = dict(
        layers=2, channels=9, scaled_channels=9, observed_channels=9, dead=3,
        dead_of_collapsed=2, removable=3, macs=2458, not_finite=0,
    )  # fmt: skip
    assert {key: whole[key] for key in expected} == expected
    assert whole['collapsed_0.001'] == 3 and whole['collapsed_0.5'] == 4
    assert whole['macs_at_stake'] == whole['macs_removable'] == pytest.approx(sum(stake.values()))


def test_without_data_idle_means_collapsed(chain):
    found = snapshot_of(chain)
    whole = totals(found, SETTINGS)
    assert whole['dead'] is whole['mostly_zero'] is whole['dead_of_collapsed'] is None
    assert whole['hardly_active'] == 3 and whole['removable'] == 3
    stake = 1728 / 4 + 720 * (1 - 0.75 * 0.6) + 10 * 0.4
    assert whole['macs_at_stake'] == pytest.approx(stake)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.fc(F.relu(x + self.bn(self.conv(x))).mean((2, 3)))


def test_activations_against_all_of_them_kept():
    torch.manual_seed(3)
    model = Residual().eval()
    with torch.no_grad():
        for norm in (model.norm, model.bn):
            norm.weight.uniform_(-1, 1)
            norm.bias.uniform_(-3, 1)
            norm.bias[0] = -60
    batches = [torch.randn(n, 3, 6, 6) for n in (5, 1, 9)]
    found = snapshot_of(model, batches=batches)
    x = torch.cat(batches)
    with torch.no_grad():
        stem = F.relu(model.norm(model.stem(x)))
        stream = F.relu(stem + model.bn(model.conv(stem))).mean((2, 3), keepdim=True)
    for row, seen in zip(layer_rows(found, SETTINGS), (stem, stream)):
        peaks = seen.amax((2, 3))
        zero = (seen == 0).double().mean((0, 2, 3))
        above = (peaks > 1e-3 * peaks.amax(0)).double().mean(0)
        assert row['dead'] == int((seen.amax((0, 2, 3)) == 0).sum()) >= 1
        assert row['mostly_zero'] == int((zero > 0.99).sum())
        assert row['mean_zero_share'] == pytest.approx(float(zero.mean()))
        # the bounds of universality are one bin of a ninth apart
        assert row['mean_universality'] == pytest.approx(float(above.mean()), abs=0.05)
    # channel 0 is dead in the stem alone, or in the stream as well: only then it can be cut
    assert totals(found, SETTINGS)['dead'] >= 2


def test_what_is_dead_in_one_branch_of_a_stream_is_not_removable():
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        model.norm.weight[0], model.norm.bias[0] = 0, -1  # the stem's channel alone is dead
        model.bn.weight[0], model.bn.bias[0] = 1, 9
    found = totals(snapshot_of(model, batches=[torch.randn(8, 3, 6, 6)]), SETTINGS)
    assert found['dead'] == 1 and found['removable'] == 0
    assert found['macs_at_stake'] > 0 == found['macs_removable']


def test_only_so_many_samples_are_looked_at():
    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=6, score=True)
    read = []

    def batches():
        for number in range(10):
            read.append(number)
            yield torch.randn(4, 3, 6, 6)

    found = snapshot_of(Chain(), batches=batches(), settings=settings)
    assert found.samples == 6 and read == [0, 1]
    assert int(found.layers['bn1'].activations.samples[0]) == 6


def test_scores_are_taken_once_for_each_set_of_filters(chain):
    calls = []

    def score(model):
        calls.append([int((n.weight == 0).sum()) for n in (model.bn1, model.bn2)])
        return {'metric': float(len(calls))}

    settings = Settings(thresholds=(0.5, 1e-3, 1e-2, 1e-12), eps=0.0, num_samples=1, score=True)
    found = snapshot_of(chain, score=score, settings=settings)
    # as it is; the zero below 1e-12; below 1e-3, and the same below 1e-2; below 0.5
    assert calls == [[0, 1], [0, 1], [1, 2], [2, 2]]
    assert found.scores == {'metric': 1.0}
    values = {t: s['metric'] for t, s in found.clamped_scores.items()}
    assert values == {1e-12: 2.0, 1e-3: 3.0, 1e-2: 3.0, 0.5: 4.0}
    assert chain.bn1.weight[1].item() == pytest.approx(1e-4)  # put back


@pytest.mark.parametrize(
    'values, message',
    [
        (dict(thresholds=()), '--thresholds must be numbers > 0, got []'),
        (dict(thresholds=(0.1, -1.0)), '--thresholds must be numbers > 0, got [0.1, -1.0]'),
        (dict(thresholds=(0.1, 0.1)), '--thresholds must differ, got [0.1, 0.1]'),
        (dict(eps=float('nan')), '--eps must be a finite number >= 0, got nan'),
        (dict(num_samples=0), '--num-samples must be an int >= 1, got 0'),
    ],
)
def test_settings_out_of_range(values, message):
    good = dict(thresholds=(1e-3,), eps=0.0, num_samples=1, score=True)
    with pytest.raises(ValueError) as error:
        Settings(**{**good, **values})
    assert str(error.value) == message


class Given:
    """A subject of models that exist."""

    title, has_data = 'given', True

    def __init__(self, models, batches=None, zero=None, growth=None):
        self.zero, self.growth = zero or {}, growth or {}
        self.models, self.data = models, batches or [torch.randn(4, 3, 6, 6)]
        self.trace, self.forward_fn = trace, forward

    def load(self, checkpoint):
        from mmpsbn.analysis.report.subject import Loaded

        growth = self.growth.get(checkpoint)
        return Loaded(self.models[checkpoint].eval(), {}, None, None, growth)

    def begins_at_zero(self):
        return self.zero

    def example(self, model):
        return torch.randn(1, 3, 6, 6)

    def batches(self, model):
        return iter(self.data)

    def score(self, model):
        return {'accuracy': float('nan')}

    def gradient_noise(self, loaded):
        return None

    def course(self, loaded, *, threshold):
        return None


def test_csv_and_json_hold_the_same_numbers(chain, tmp_path):
    subject = Given({'a/first.pth': Chain(), 'a/last.pth': chain})
    files = write_report(
        subject, list(subject.models), SETTINGS, out_dir=tmp_path / 'new', force=False,
        prune_command=None,
    )  # fmt: skip
    assert [path.name for path in files] == ['report.html', 'report.json', 'layers.csv']
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == sorted(
        path.name for path in files
    )
    report = json.loads(files[1].read_text(), parse_constant=pytest.fail)
    assert [c['name'] for c in report['checkpoints']] == ['first', 'last']
    assert report['checkpoints'][1]['totals']['dead'] == 3
    assert report['checkpoints'][1]['scores'] == {'accuracy': None}
    lines = list(csv.DictReader(files[2].open()))
    assert len(lines) == 6
    written = [
        {'checkpoint': c['name'], **{k: '' if v is None else str(v) for k, v in row.items()}}
        for c in report['checkpoints']
        for row in c['layers']
    ]
    assert lines == written


def test_a_report_is_overwritten_only_where_asked_for(tmp_path):
    subject = Given({'x.pth': Chain()})

    def write(**kwargs):
        return write_report(subject, ['x.pth'], SETTINGS, prune_command=None, **kwargs)

    (tmp_path / 'layers.csv').write_text('mine')
    with pytest.raises(FileExistsError, match=r"layers.csv' exists; give another --out, or --for"):
        write(out_dir=tmp_path, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ['layers.csv']
    with pytest.raises(FileExistsError, match=r"layers.csv' is a file; give a folder as --out"):
        write(out_dir=tmp_path / 'layers.csv', force=True)
    write(out_dir=tmp_path, force=True)
    assert (tmp_path / 'layers.csv').read_text().startswith('checkpoint,layer,')


def test_nothing_is_written_where_it_fails(tmp_path):
    subject = Given({'x.pth': Chain()}, batches=[torch.empty(0, 3, 6, 6)])
    with pytest.raises(ValueError, match='the data set is empty: no sample to look at'):
        write_report(
            subject, ['x.pth'], SETTINGS, out_dir=tmp_path / 'out', force=False, prune_command=None
        )
    assert not (tmp_path / 'out').exists()
