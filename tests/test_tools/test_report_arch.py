"""`mmpsbn report` on any PyTorch model."""

import pytest
import small_detector
import torch
from small_detector import report, run_tool

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

ARCH = """
import torch
from torch import nn

def net(width=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2),
    )

def wide():
    return net(6)

def tower():
    return nn.Sequential(net(), nn.Softmax(1)).requires_grad_(False), 1

def maps():
    return net()[:3]

def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(5, 3, 8, 8, generator=generator)
        yield x, (x.mean((1, 2, 3)) > 0).long()

def none():
    return []

def alone():
    return [torch.zeros(2, 3, 8, 8)]

def column():
    return [(x, y[:, None]) for x, y in batches()]

def pairs():
    return [((x, x), y) for x, y in batches()]

def bare():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *net()[2:])
    model[0].weight.data[:2], model[0].bias.data[:2] = 0, -1
    return model

def twice():
    model = nn.ModuleDict(dict(used=net(), unused=net()))
    model.unused[1].weight.data[:2] = 0
    model.forward = lambda x: model.used(x)
    return model

def constant():
    model = net()
    model[1].weight.data[0], model[1].bias.data[0] = 0, 1
    return model

def all_dead():
    model = net()
    model[1].weight.data[:], model[1].bias.data[:] = 0, -1
    return model

def broken():
    model = net()
    model[0].weight.data[0] = float('nan')
    return model

def one():
    return [(torch.ones(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]

number = 3
"""


@pytest.fixture(scope='module')
def arch(tmp_path_factory):
    """``nets.py``, and ``net.pth`` in which channels 0 and 1 have collapsed, 0 of them dead."""
    folder = tmp_path_factory.mktemp('arch')
    (folder / 'nets.py').write_text(ARCH)
    scope = {}
    exec(ARCH, scope)
    model = scope['net']()
    with torch.no_grad():
        model[1].weight[:2] = 0
        model[1].bias[:2] = torch.tensor([-1.0, 1.0])
    state = {f'module.{key}': value for key, value in model.state_dict().items()}
    del state['module.1.num_batches_tracked']  # as in checkpoints of 2017
    torch.save(dict(state_dict=state, best_prec1=1.0), folder / 'net.pth')
    return folder


def run(*arguments):
    run_tool('sparsity_report', *arguments, '--device', 'cpu')


def refusal(*arguments):
    return small_detector.refusal(run, *arguments)


def test_any_model_with_data(arch, tmp_path):
    nets = arch / 'nets.py'
    run(
        *('--arch', f'{nets}:net', arch / 'net.pth', '--data', f'{nets}:batches'),
        *('--out', tmp_path / 'out', '--num-samples', '7', '--thresholds', '0.001', '2'),
    )
    found = report(tmp_path / 'out')['checkpoints'][0]
    assert found['name'] == 'net.pth' and found['samples'] == 7
    totals = found['totals']
    assert (totals['collapsed_0.001'], totals['collapsed_2'], totals['dead']) == (2, 4, 1)
    assert totals['dead_of_collapsed'] == 1 and totals['macs'] == 36 * 4 * 27 + 8
    # scored on all 15 images, one by one here
    scope = {}
    exec(ARCH, scope)
    model = scope['net']().eval()
    accuracy = {}
    for threshold, gone in ((None, 2), ('0.001', 2), ('2', 4)):
        with torch.no_grad():
            model[1].weight.fill_(1)[:gone] = 0
            model[1].bias[:2] = torch.tensor([-1.0, 1.0])
            right = [
                int(model(x[None]).argmax()) == int(y)
                for b in scope['batches']()
                for x, y in zip(*b)
            ]
        accuracy[threshold] = pytest.approx(100 * sum(right) / 15)
    assert found['scores'] == {'accuracy/top1': accuracy[None]}
    assert found['clamped_scores'] == {
        t: {'accuracy/top1': accuracy[t]} for t in ('0.001', '2')
    }  # fmt: skip


def test_any_model_without_data_or_checkpoint(arch, tmp_path):
    run('--arch', f'{arch / "nets.py"}:net', '--out', tmp_path / 'a', '--input-size', 8, 8)
    found = report(tmp_path / 'a')['checkpoints'][0]
    assert found['name'] == 'as built' and found['input_shape'] == [1, 3, 8, 8]
    assert found['totals']['dead'] is None and found['totals']['macs'] == 36 * 4 * 27 + 8
    run('--arch', f'{arch / "nets.py"}:net', '--out', tmp_path / 'b')
    found = report(tmp_path / 'b')['checkpoints'][0]
    assert found['totals']['macs'] is None
    assert found['untraced'] == 'no input size is known: give --input-size'
    assert found['totals']['collapsed_0.001'] == 0


@pytest.mark.parametrize(
    'net, data, said, unsaid',
    [
        # all of them can be removed: there are no others
        ('bare', 'batches', ['2 of 4 observed', 'saves 50.00%.'], ['above that threshold']),
        # nothing is known of the layers that are not used
        ('twice', 'batches', ['2 of 8 filters'], ['Dead among']),
        ('constant', 'batches', ['Dead among the 1 collapsed filter: none.'], ['Nothing to do']),
        ('all_dead', 'batches', ['3 of them can be removed, which saves 75.00%; the others'], []),
        ('broken', 'batches', ['1 channel was NaN or inf', 'Find where the NaN comes from'], []),
        ('net', 'one', ['of the one sample.'], []),
    ],
)
def test_the_words_say_no_more_than_the_numbers(arch, tmp_path, capsys, net, data, said, unsaid):
    nets = arch / 'nets.py'
    run('--arch', f'{nets}:{net}', '--data', f'{nets}:{data}', '--out', tmp_path / 'out')
    words = capsys.readouterr().out
    assert all(part in words for part in said) and not any(part in words for part in unsaid)


def test_what_the_file_of_a_model_may_hold(tmp_path):
    """Its neighbours, and what dataclasses look up in sys.modules."""
    (tmp_path / 'neighbour_of_nets.py').write_text(ARCH)
    (tmp_path / 'mine.py').write_text(
        'from __future__ import annotations\nfrom dataclasses import dataclass\n'
        'from neighbour_of_nets import net\n@dataclass\nclass Size:\n    width: int = 4\n'
    )
    run('--arch', f'{tmp_path / "mine.py"}:net', '--out', tmp_path / 'out')
    assert report(tmp_path / 'out')['checkpoints'][0]['totals']['channels'] == 4


def test_files_that_are_no_checkpoint_or_no_python(arch, tmp_path):
    nets, out = f'{arch / "nets.py"}:net', ('--out', tmp_path / 'out')
    half = (arch / 'net.pth').read_bytes()[:900]
    path = tmp_path / 'text'
    for content in (b'', b'elo\n', half, b'read me\n'):
        path.write_bytes(content)
        said = refusal('--arch', nets, path, *out)
        assert f"'{path}' is not a checkpoint that can be read" in said
    for state, message in (({0: torch.zeros(1)}, 'not a state dict'), ({}, '0.weight')):
        torch.save(state, tmp_path / 'odd.pth')
        assert message in refusal('--arch', nets, tmp_path / 'odd.pth', *out)
    for source, message in (('def net(:', 'invalid syntax'), ('import no_such', 'no_such')):
        (tmp_path / 'bad.py').write_text(source)
        assert message in refusal('--arch', f'{tmp_path / "bad.py"}:net', *out)
    assert 'is not a .py file' in refusal('--arch', f'{path}:net', *out)
    assert "text' is a file; give a folder" in refusal('--arch', nets, '--out', path / 'out')


def test_what_cannot_be_done_with_a_model_is_said_in_a_sentence(arch, tmp_path):
    nets, out = arch / 'nets.py', ('--out', tmp_path / 'out')
    for arguments, message in (
        ((f'{nets}',), '--arch must be FILE:CALLABLE, got'),
        (('/no.py:net',), "--arch: file '/no.py' does not exist"),
        ((f'{nets}:number',), "has no callable 'number'"),
        ((f'{nets}:tower',), '--arch must return an nn.Module, got tuple'),
        ((f'{nets}:net', '/no.pth'), "checkpoint '/no.pth' does not exist"),
        ((f'{nets}:net', nets), "nets.py' is not a checkpoint that can be read"),
        ((f'{nets}:wide', arch / 'net.pth'), 'size mismatch for 0.weight'),
        ((f'{nets}:maps', arch / 'net.pth'), 'does not fit the --arch model: Unexpected key(s)'),
        ((f'{nets}:net', '--data', f'{nets}:none'), 'the data set is empty: no sample to look at'),
        ((f'{nets}:net', '--data', f'{nets}:alone'), 'must yield pairs (inputs, labels), got Tens'),
        ((f'{nets}:maps', '--data', f'{nets}:batches'), 'top-1 accuracy needs logits'),
        ((f'{nets}:net', '--data', f'{nets}:column'), 'one label a sample, shape (5,), got (5, 1)'),
        ((f'{nets}:net', '--data', f'{nets}:pairs'), 'inputs as one tensor, got tuple'),
        ((f'{nets}:net', '--thresholds', '.1', '.10000001'), '--thresholds must differ, got'),
        ((f'{nets}:net', '--thresholds', '0'), '--thresholds must be numbers > 0, got [0.0]'),
    ):
        assert message in refusal('--arch', *arguments, *out)
    assert not (tmp_path / 'out').exists()


def test_options_that_do_not_go_together(arch, tmp_path, capsys):
    nets = f'{arch / "nets.py"}:net'
    for arguments, message in (
        ((), 'give a config and one or more of its checkpoints, or --arch'),
        (('--arch', nets, '--data'), '--data needs FILE:CALLABLE with --arch'),
        (('c.py', 'x.pth', '--data', 'y'), "--data takes no value with a config, got 'y'"),
        (('--arch', nets, '--input-size', '8', '0'), '--input-size must be >= 1, got [8, 0]'),
    ):
        with pytest.raises(SystemExit):
            run(*arguments, '--out', tmp_path / 'out')
        assert message in capsys.readouterr().err
