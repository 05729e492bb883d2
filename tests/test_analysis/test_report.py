"""The report's files, and its numbers against obvious references and a case worked by hand."""

import csv
import json

import pytest
import torch
from reports import SETTINGS, UNSCORED, Chain, Given, rows_of, snapshot_of, totals_of, write

from mmpsbn.analysis.report import Settings
from mmpsbn.analysis.report.snapshot import checkpoint_names


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


def test_a_case_worked_by_hand(chain):
    batches = [torch.randn(7, 3, 6, 6), torch.randn(4, 3, 6, 6)]
    found = snapshot_of(chain, batches=batches, settings=SETTINGS)
    first, second, last = rows_of(found)
    assert [row['layer'] for row in (first, second, last)] == ['bn1', 'bn2', 'fc']
    expected = {
        'writer': ('conv1', 'conv2'),
        'channels': (4, 5),
        'collapsed_0.001': (1, 2),
        'collapsed_0.5': (2, 2),
        'dead': (2, 1),
        # Phi(b / |gamma|): channels 1 and 2 of bn1, and 0 of bn2, whose gamma is exactly 0
        'hardly_active': (2, 1),
        # of one image: conv1 16 positions x 4 x 27, conv2 4 positions x 5 x 36
        'macs': (1728, 720),
    }
    assert {key: (first[key], second[key]) for key in expected} == expected
    assert first['median_gamma'] == pytest.approx(0.4) and second['median_bias'] == 9
    assert second['mean_zero_share'] == pytest.approx(1 / 5)
    assert second['mean_universality'] == pytest.approx(4 / 5)
    assert last['channels'] is None and last['macs'] == 10
    # half of conv1's filters; conv2 keeps 2 of 4 inputs and 4 of 5 filters; fc 4 of 5 inputs
    stake = [1728 / 2, 720 * (1 - 0.5 * 0.8), 10 * 0.2]
    assert [row['macs_at_stake'] for row in (first, second, last)] == pytest.approx(stake)
    whole = totals_of(found)
    expected = dict(
        layers=2, channels=9, scaled_channels=9, observed_channels=9, dead=3, dead_of_collapsed=2,
        dead_above=1, removable=3, macs=2458, not_finite=0,
    ) | {'collapsed_0.001': 3, 'collapsed_0.5': 4}  # fmt: skip
    assert {key: whole[key] for key in expected} == expected
    assert whole['macs_at_stake'] == whole['macs_removable'] == pytest.approx(sum(stake))


def test_without_data_idle_means_collapsed(chain):
    whole = totals_of(snapshot_of(chain))
    assert whole['dead'] is whole['mostly_zero'] is whole['dead_of_collapsed'] is None
    assert whole['hardly_active'] == 3 and whole['removable'] == 3
    stake = 1728 / 4 + 720 * (1 - 0.75 * 0.6) + 10 * 0.4
    assert whole['macs_at_stake'] == pytest.approx(stake)


def test_only_so_many_samples_are_looked_at():
    read = []

    def batches():
        for number in range(10):
            read.append(number)
            yield torch.randn(4, 3, 6, 6)

    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=6, score=False)
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


def test_csv_json_and_the_terminal_hold_the_same_numbers(chain, tmp_path, capsys):
    subject = Given({'a/first.pth': Chain(), 'a/last.pth': chain})
    command = "mmpsbn prune 'my net.py' last.pth --out pruned"
    files = write(subject, tmp_path / 'new', prune_command=command)
    assert [path.name for path in files] == ['report.html', 'report.json', 'layers.csv']
    assert sorted((tmp_path / 'new').iterdir()) == sorted(files)
    report = json.loads(files[1].read_text(), parse_constant=pytest.fail)
    assert [c['name'] for c in report['checkpoints']] == ['first.pth', 'last.pth']
    assert report['checkpoints'][1]['totals']['dead'] == 3
    assert report['checkpoints'][1]['scores'] == {'accuracy': None}
    lines = list(csv.DictReader(files[2].open()))
    assert len(lines) == 6
    assert lines == [
        {'checkpoint': c['name'], **{k: '' if v is None else str(v) for k, v in row.items()}}
        for c in report['checkpoints']
        for row in c['layers']
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == 'given: last.pth' and f'    {command}' in said
    assert said[said.index('Dead:') + 1].startswith('  3 of 9 observed channels')
    assert said.count('What to do:') == 1
    assert not any('`' in line for line in said)


def test_a_report_is_overwritten_only_where_asked_for(tmp_path):
    subject = Given({'x.pth': Chain()})
    (tmp_path / 'layers.csv').write_text('mine')
    with pytest.raises(FileExistsError, match=r"layers.csv' exists; give another --out, or --for"):
        write(subject, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['layers.csv']
    with pytest.raises(FileExistsError, match=r"layers.csv' is a file; give a folder as --out"):
        write(subject, tmp_path / 'layers.csv', force=True)
    write(subject, tmp_path, force=True)
    assert (tmp_path / 'layers.csv').read_text().startswith('checkpoint,layer,')


def test_nothing_is_written_where_it_fails(tmp_path):
    subject = Given({'x.pth': Chain()}, batches=[torch.empty(0, 3, 6, 6)])
    with pytest.raises(ValueError, match='the data set is empty: no sample to look at'):
        write(subject, tmp_path / 'out', settings=UNSCORED)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'paths, labels',
    [
        (['run/epoch_1.pth', 'run/epoch_2.pth'], ['epoch_1.pth', 'epoch_2.pth']),
        (['/w/a/epoch_2.pth', '/w/b/epoch_2.pth'], ['a/epoch_2.pth', 'b/epoch_2.pth']),
        (['x.pth', 'x.pth'], ['x.pth', 'x.pth']),
        ([], []),
    ],
)
def test_checkpoints_are_called_by_file_name(paths, labels):
    assert checkpoint_names(paths) == labels
