"""The zoo table's script: its parts on small nets, and twenty families end to end."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def part(name):
    return importlib.import_module(f'zoo.{name}')


# families that are quick, and together have every kind of layer: residual and dense streams,
# grouped and depthwise convolutions, splits, gates, shuffles, shared heads, second stages
FAMILIES = [
    *(f'mmdet/{name}' for name in 'centernet hrnet retinanet rpn rtmdet sabl ssd_lite'.split()),
    *(
        f'mmpretrain/{name}'
        for name in 'densenet edgenext inception_v3 mobilenet_v3 mobileone mvit poolformer regnet '
        'res2net resnest resnet resnext seresnet shufflenet_v2'.split()
    ),
]


@pytest.mark.parametrize('family', FAMILIES)
def test_dead_channels_of_a_family_are_removed_and_nothing_else_changes(family):
    row = part('measure').measure(family, seed=0)
    assert row.status == 'pass'
    assert row.error <= 1e-9 and row.params_left < 1
    assert 0 < row.removed <= row.planted and row.all_removed > 0
    assert row.certain_removed == row.certain


class Net(nn.Module):
    """One of everything that the census tells apart."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.inner, self.inner_bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last, self.last_bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.gate, self.join = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.grouped, self.out = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem_bn(self.stem(x))
        y = F.relu(self.inner_bn(self.inner(F.relu(x))), inplace=True)
        x = F.relu(x + self.last_bn(self.last(y)))
        left = F.silu(self.left(x))
        both = torch.cat([left, self.right(x)], 1)
        x = self.join(both * self.gate(left).sigmoid())
        return self.out(self.grouped(x))


def census_of(model, shape=(1, 3, 4, 4)):
    images = torch.randn(shape)
    return part('census').take_census(model.eval(), lambda model: model(images))


def test_census_of_a_net():
    census = census_of(Net())
    assert census.streams == [('last_bn', 'stem_bn')]
    assert census.inner == {'inner_bn'}
    assert census.rectified == {'inner_bn'}
    assert set(census.widths) == {'stem_bn', 'inner_bn', 'last_bn', 'left', 'right', 'gate'} | {
        'join',
        'grouped',
    }


class Sum(nn.Module):
    """Two convolutions with norms that are added, and what happens to the sum."""

    def __init__(self, use):
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)) for _ in range(2)
        )
        self.norm, self.grouped = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, groups=2)
        self.out, self.use = nn.Conv2d(6, 2, 1), use

    def forward(self, x):
        return self.use(self, self.left(x) + self.right(x), x)


@pytest.mark.parametrize(
    'use, certain',
    [
        (lambda net, y, x: net.out(y), True),
        (lambda net, y, x: net.out(F.relu(y)), True),
        (lambda net, y, x: (net.out(y), y), False),
        (lambda net, y, x: net.out(net.norm(y)), False),
        (lambda net, y, x: net.out(y + net.norm(y)), False),
        (lambda net, y, x: (net.out(y), net.out(net.grouped(y))), False),
        (lambda net, y, x: net.out(y + torch.randn(1, 6, 1, 1)), False),
        (lambda net, y, x: net.out(y + net.left[0](x)), False),
        (lambda net, y, x: net.out(y + net.norm(net.left[0](x))), False),
    ],
)
def test_whose_sum_is_certain(use, certain):
    assert census_of(Sum(use)).streams == ([('left.1', 'right.1')] if certain else [])


@pytest.mark.parametrize('before_norm', [False, True])
def test_what_is_seen_before_its_norm_is_not_inner(before_norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.out = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            out = self.out(self.bn(y).relu())
            return (out, y.mean()) if before_norm else out

    assert census_of(Net()).inner == (set() if before_norm else {'bn'})


class Shared(nn.Module):
    """A head that two levels share, each with its own norm; a tied pair; an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.tower = nn.Conv2d(6, 6, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        levels = self.first(x), self.second(x)
        towers = [norm(self.tower(F.relu(p))) for norm, p in zip(self.norms, levels)]
        return levels[0], [self.out(t) for t in towers]


def test_what_a_shared_layer_reads_is_not_certain():
    census = census_of(Shared())
    assert not census.inner and not census.streams
    assert set(census.widths) == {'first', 'second', 'norms.0', 'norms.1'}


def plant(model, seed=0):
    model = model.eval()
    census = census_of(model)
    return census, part('planting').plant_dead_channels_(model, census, seed)


def test_planted_channels_are_dead_and_repeatable():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 2, 1))
    census, planted = plant(model)
    assert planted.channels == planted.certain and set(planted.channels) == {'1'}
    dead = planted.channels['1']
    assert 2 < len(dead) < 20
    features = model[:3](torch.randn(2, 3, 5, 5))
    assert features[:, dead].abs().max() == 0
    assert {bool(b < 0) for b in model[1].bias[dead]} == {True, False}
    assert plant(model)[1] == planted


def test_streams_are_dead_at_every_writer():
    model = Net()
    _, planted = plant(model)
    assert planted.certain['stem_bn'] == planted.certain['last_bn']
    for name, channels in planted.channels.items():
        layer = model.get_submodule(name)
        assert layer.weight[channels].abs().max() == 0
        assert layer.bias[channels].max() <= 0
    stream = planted.certain['stem_bn']
    assert model.stem_bn.bias[stream].abs().max() == 0  # its ReLU comes after the addition


def test_units_of_groups_die_together():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 24, 1, groups=4, bias=False),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 8, 1),
        nn.GroupNorm(1, 8),
        nn.Conv2d(8, 2, 1),
    )
    assert census_of(model).unit_sizes == {'1': 4, '3': 6, '5': 8}
    planted = [plant(model, seed)[1] for seed in range(6)]
    for name, width, size in (('1', 16, 4), ('3', 24, 6)):
        dead = [p.channels[name] for p in planted if name in p.channels]
        assert any(dead)
        for channels in dead:
            assert len(channels) < width
            assert channels == [c for c in range(width) if c // size * size in channels]
    assert not any(p.channels.get('5') or p.certain for p in planted)  # it would die as a whole


@pytest.mark.parametrize(
    'outputs, complaint',
    [
        (lambda y: y * 0 + 1, 'the outputs do not depend on the images'),
        (lambda y: (y * 1e14).sin(), 'a change of the images by 1e-15 changes the outputs by'),
    ],
)
def test_a_degenerate_model_is_no_evidence(monkeypatch, outputs, complaint):
    measure = part('measure')
    find = measure.find_forward

    def find_degenerate(*args):
        what, forward, images = find(*args)
        return what, lambda model, images: outputs(forward(model, images)[0]), images

    monkeypatch.setattr(measure, 'find_forward', find_degenerate)
    row = measure.measure('mmpretrain/lenet', seed=0)
    assert row.status.startswith(f'RuntimeError: degenerate: {complaint}')


def test_a_wrong_result_is_told(monkeypatch):
    measure = part('measure')
    before = [torch.ones(2, 2), torch.zeros(3)]
    assert measure.relative_error(before, [torch.ones(2, 2), torch.zeros(3)]) == 0
    assert measure.relative_error(before, [torch.full((2, 2), 1.5), torch.zeros(3)]) == 0.5
    assert measure.relative_error(before, [torch.ones(2, 2)]) == float('inf')
    assert measure.relative_error(
        before, [torch.ones(2, 2), torch.tensor([0.0, 0, torch.nan])]
    ) == (float('inf'))

    def damage(model, *args, **kwargs):
        result = prune(model, *args, **kwargs)
        with torch.no_grad():
            model.bbox_head.retina_cls.bias[0] += 1
        return result

    prune = measure.prune_dead_channels
    monkeypatch.setattr(measure, 'prune_dead_channels', damage)
    row = measure.measure('mmdet/retinanet', seed=0)
    assert row.status == 'WRONG' and row.error > 1e-3 and not row.passes


def test_an_error_is_the_familys_status(monkeypatch):
    measure = part('measure')

    def fail(*args):
        raise ImportError('timm is\n  not installed')

    monkeypatch.setattr(measure, 'build_model', fail)
    row = measure.measure('mmdet/retinanet', seed=0)
    assert row.status == 'ImportError: timm is not installed' and not row.passes


def test_reasons_are_counted_without_layers_and_numbers():
    skipped = {
        'a': 'neck.convs.0: its statistics join',
        'b': '12 of 64 channels: backbone.x: its statistics join',
        'c': 'an output of the model: nobody reads it',
        'd': 'not reached by the trace',
        'e': '3 of 4 channels: not reached by the trace',
    }
    assert part('measure').count_reasons(skipped) == {
        'its statistics join': 2,
        'not reached by the trace': 2,
        'an output of the model: nobody reads it': 1,
    }


def rows():
    row = part('measure').Row
    return [
        row('mmdet/atss', 'atss/a.py', 'all', 9, 4, 7, 4, 5, 2e-14, 0.5, 'pass', {'x | y': 3}),
        row('mmdet/glip', 'glip/g.py', status='ImportError: transformers'),
        row('mmpretrain/vgg', 'vgg/v.py', 'all', 2, 1, 0, 0, 0, 0.0, 1.0, 'nothing removed'),
    ]


def test_table(tmp_path):
    text = part('table').markdown(rows(), command='python x', seed=3)
    assert '1 of 3 families pass: 1 of 2 in mmdet, 0 of 1 in mmpretrain.' in text
    assert 'Seed 3; Python 3' in text and f'torch {torch.__version__.split("+")[0]}' in text
    lines = [line for line in text.splitlines() if line.startswith('| mm')]
    assert lines == [
        '| mmdet/atss | a.py | all | 9 | 4 | 7, 4 | 5 | 50% | 2e-14 | pass | x \\| y (3) |',
        '| mmdet/glip | g.py |  | 0 | 0 | 0, 0 | 0 | 100% |  | ImportError: transformers |  |',
        '| mmpretrain/vgg | v.py | all | 2 | 1 | 0, 0 | 0 | 100% | 0e+00 | nothing removed |  |',
    ]
    columns = next(line for line in text.splitlines() if line.startswith('| family'))
    assert columns.count('|') == lines[1].count('|')


def test_rows_are_kept(tmp_path):
    table = part('table')
    for row in rows():
        table.save_row(row, tmp_path / 'work')
        assert table.load_row(row.family, tmp_path / 'work') == row
    assert table.load_row('mmdet/ssd', tmp_path / 'work') is None
    assert not list(tmp_path.rglob('*.part'))


def test_every_family_has_a_config():
    families = part('families')
    names = families.family_names()
    assert len(names) == len(set(names)) > 150
    assert {'mmdet/retinanet', 'mmdet/ssd', 'mmpretrain/resnet', 'mmpretrain/vgg_bn'} <= set(names)
    for name in names:
        assert families.config_of(name).is_file(), name


@pytest.fixture
def script(monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['prune_zoo.py', *map(str, args)])
        importlib.import_module('prune_zoo').main()

    return run


def test_script_goes_on_with_what_is_missing(script, tmp_path, capfd, monkeypatch):
    args = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'docs/zoo.md']
    script('--only', 'mmdet/misc', 'mmpretrain/lenet', *args)
    printed = capfd.readouterr().out
    assert '[1/2] mmdet/misc: ImportError' in printed and '[2/2] mmpretrain/lenet: ' in printed
    assert 'of 2 families pass' in printed
    table = (tmp_path / 'docs/zoo.md').read_text()
    assert '| mmdet/misc |' in table and '| mmpretrain/lenet |' in table
    names = ['mmdet/misc', 'mmpretrain/lenet', 'mmpretrain/seresnet']
    monkeypatch.setattr('prune_zoo.family_names', lambda: names)
    script(*args, '--timeout', 0.01)
    printed = capfd.readouterr().out
    assert '[1/1] mmpretrain/seresnet: not done after 0 s' in printed


def test_script_refuses_an_unknown_family(script, capsys):
    with pytest.raises(SystemExit):
        script('--only', 'mmdet/nonsense')
    assert 'no such family: mmdet/nonsense' in capsys.readouterr().err


def test_script_lists_the_families(script, capsys):
    script('--list')
    assert {'mmdet/atss', 'mmpretrain/vgg'} <= set(capsys.readouterr().out.split())
