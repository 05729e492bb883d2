"""`mmpsbn report` on a config and on any PyTorch model, and `mmpsbn plot`."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_detector import ROOT, run_tool, write_small_detector

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from mmpsbn.commands.model_files import load_model, save_weights  # noqa: E402

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


def report(folder):
    assert sorted(p.name for p in folder.iterdir()) == ['layers.csv', 'report.html', 'report.json']
    return json.loads((folder / 'report.json').read_text())


def refusal(*arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    message = str(stopped.value)
    assert message.startswith('error: ') and '\n' not in message
    return message


# ---------------------------------------------------------------- any PyTorch model
def test_any_model_with_data(arch, tmp_path):
    nets = arch / 'nets.py'
    run(
        *('--arch', f'{nets}:net', arch / 'net.pth', '--data', f'{nets}:batches'),
        *('--out', tmp_path / 'out', '--num-samples', '7', '--thresholds', '0.001', '2'),
    )
    found = report(tmp_path / 'out')['checkpoints'][0]
    assert found['name'] == 'net' and found['samples'] == 7
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
    for state, message in (({0: torch.zeros(1)}, 'Missing key(s)'), ({}, '0.weight')):
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


# ---------------------------------------------------------------- a config
@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """``small.py`` and two checkpoints of it; in ``epoch_2.pth`` three channels are dead."""
    folder = tmp_path_factory.mktemp('small')
    cfg = write_small_detector(folder)
    loaded = load_model(cfg, str(folder / 'dense.pth'))
    save_weights(loaded.model, str(folder / 'epoch_1.pth'), iter=2, epoch=1)
    norm = loaded.model.get_submodule('backbone.layer2.0.bn1')
    with torch.no_grad():
        norm.weight[[1, 5, 6]] = 0
        norm.bias[[1, 5, 6]] = -1
    save_weights(loaded.model, str(folder / 'epoch_2.pth'), iter=4, epoch=2)
    return folder


def test_a_config_with_its_own_data_and_evaluator(folder, tmp_path, capsys):
    checkpoints = [folder / f'epoch_{k}.pth' for k in (1, 2)]
    run(
        *(folder / 'small.py', *checkpoints, '--data', '--out', tmp_path / 'out'),
        *('--num-samples', '3', '--thresholds', '0.001'),
        *('--cfg-options', 'optim_wrapper.optimizer.type=SGD'),
        *('optim_wrapper.optimizer.momentum=0.9', 'optim_wrapper.accumulative_counts=2'),
    )
    said, shown = capsys.readouterr()
    found = report(tmp_path / 'out')
    first, last = found['checkpoints']
    # the optimizer steps at every second iteration
    assert (first['samples'], first['step'], last['step']) == (3, 1, 2)
    assert last['totals']['collapsed_0.001'] == 3 and first['totals']['collapsed_0.001'] == 0
    row = next(r for r in last['layers'] if r['layer'] == 'backbone.layer2.0.bn1')
    assert row['dead'] >= 3 and row['writer'] == 'backbone.layer2.0.conv1'
    assert last['totals']['removable'] >= 3
    assert last['totals']['macs_removable'] == pytest.approx(_saved_by_pruning(folder, tmp_path))
    assert 'coco/bbox_mAP' in last['scores']
    assert last['clamped_scores']['0.001'] == last['scores']  # they were 0 already
    assert 'weight_decay' in found['forecast']['sentence']
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'Ways through the' in page and 'small: epoch_2.pth' in page
    command = shlex.join(['prune', f'{folder}/small.py', f'{folder}/epoch_2.pth'])
    assert f'mmpsbn {command} --criterion dead' in said
    assert 'SparsityHook looked at the last 2 batches of the training data, this report' in said
    for text in (said, shown):  # what pycocotools prints
        assert 'Average Precision' not in text and 'loading annotations' not in text


def test_training_data_is_not_needed_to_look_at_test_data(folder, tmp_path):
    checkpoints = [folder / f'epoch_{k}.pth' for k in (1, 2)]
    run(
        *(folder / 'small.py', *checkpoints, '--data', '--no-score', '--out', tmp_path / 'out'),
        *('--cfg-options', 'train_dataloader.dataset.data_root=nowhere/'),
        *('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic'),
    )
    found = report(tmp_path / 'out')  # on a machine without a GPU, too
    assert found['drops'] == [] and 'weight_decay' in found['forecast']['sentence']


def test_training_settings_that_do_not_build_cost_the_forecast_only(folder, tmp_path):
    run(
        *(folder / 'small.py', folder / 'epoch_1.pth', '--out', tmp_path / 'out'),
        *('--cfg-options', 'optim_wrapper.constructor=Nobodys'),
    )
    assert 'Nobodys is not in' in report(tmp_path / 'out')['forecast']['sentence']


def test_the_length_of_an_epoch_in_a_checkpoint_from_the_middle_of_one(folder):
    from mmengine.config import Config

    cfg, path = Config.fromfile(str(folder / 'small.py')), folder / 'middle.pth'
    checkpoint = torch.load(folder / 'epoch_1.pth', weights_only=True)
    checkpoint['meta'] |= dict(iter=150, epoch=1)
    planned = dict(runtime_info=dict(max_iters=1200, max_epochs=12))
    for hub, length in ((planned, 100), (None, 150)):
        torch.save(dict(checkpoint, message_hub=hub), path)
        assert load_model(cfg, str(path)).epoch_length == length


def test_noise_is_that_of_the_batches_of_a_step(folder):
    from mmengine.config import Config

    from mmpsbn.analysis.report.config import ConfigSubject

    def noise(counts):
        cfg = Config.fromfile(str(folder / 'small.py'))
        cfg.optim_wrapper.accumulative_counts = counts
        subject = ConfigSubject(cfg, use_data=True, input_size=None, device='cpu')
        return subject.gradient_noise(subject.load(str(folder / 'epoch_1.pth')))

    one, four = noise(1), noise(4)
    assert one and {name: c / 2 for name, c in one.items()} == pytest.approx(four)


def _saved_by_pruning(folder, tmp_path):
    """MACs that tools/prune.py saves on the very images the report looked at."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmpsbn.engine.openmmlab import example_inputs, forward_tensors, trace_at_any_size
    from mmpsbn.pruning import prune_dead_channels
    from mmpsbn.pruning.cost import count_positions, model_cost

    cfg = Config.fromfile(str(folder / 'small.py'))
    model = load_model(cfg, str(folder / 'epoch_2.pth')).model
    batch = next(iter(Runner.build_dataloader(cfg.test_dataloader, seed=0)))
    images = example_inputs(model, batch, 3)
    _, probe = trace_at_any_size(model, torch.randn(1, 3, 128, 160))
    before = model_cost(model, count_positions(model, probe, forward_tensors)).macs
    prune_dead_channels(
        model, [images], criterion='dead', forward_fn=forward_tensors, tolerance=1e-3,
        fold_padding=False, round_to=1,
    )  # fmt: skip
    return before - model_cost(model, count_positions(model, probe, forward_tensors)).macs


def test_a_pruned_checkpoint_is_reported_as_it_is(folder, tmp_path):
    run_tool(
        'prune', folder / 'small.py', folder / 'epoch_2.pth', '--criterion', 'dead', '--round-to',
        '1', '--num-samples', '6', '--out', tmp_path, '--device', 'cpu',
    )  # fmt: skip
    pruned = tmp_path / 'epoch_2_dead.pth'
    run(folder / 'small.py', folder / 'epoch_2.pth', pruned, '--out', tmp_path / 'out')
    first, last = report(tmp_path / 'out')['checkpoints']
    assert last['totals']['channels'] < first['totals']['channels']
    assert last['totals']['macs'] < first['totals']['macs']
    assert last['totals']['collapsed_0.001'] == 0


def test_what_cannot_be_done_with_a_config_is_said_in_a_sentence(folder, tmp_path):
    small, out = folder / 'small.py', ('--out', tmp_path / 'out')
    assert "checkpoint '/no.pth' does not exist" in refusal(small, '/no.pth', *out)
    assert "config '/no.py' does not exist" in refusal('/no.py', '/no.pth', *out)
    good = folder / 'epoch_1.pth'
    wider = ('--cfg-options', 'model.backbone.base_channels=16')
    assert 'has shape (8, 3, 7, 7) in the checkpoint and (16, 3, 7, 7) in the model' in refusal(
        small, good, *out, *wider
    )
    more = torch.load(good, weights_only=True)
    more['state_dict']['backbone.layer9.weight'] = torch.zeros(1)
    torch.save(more, tmp_path / 'more.pth')
    assert 'more.pth holds backbone.layer9.weight, which the model of' in refusal(
        small, tmp_path / 'more.pth', *out
    )
    whole = good.read_bytes()
    for content in (b'', b'elo\n', whole[:5000], whole[: len(whole) // 2]):
        (tmp_path / 'bad.pth').write_bytes(content)
        assert "bad.pth' is not a checkpoint that can be read" in refusal(
            small, tmp_path / 'bad.pth', *out
        )
    for held in ([1], {0: 1}, {'state_dict': None}):
        torch.save(held, tmp_path / 'bad.pth')
        assert 'not a state dict' in refusal(small, tmp_path / 'bad.pth', *out)
    missing = ('--cfg-options', 'test_dataloader.dataset.data_root=nowhere/')
    assert "'nowhere/' (test_dataloader.dataset.data_root) does not exist" in refusal(
        small, good, *out, '--data', *missing
    )
    assert not (tmp_path / 'out').exists()


# ---------------------------------------------------------------- training logs
def test_plot_log_prints_what_it_wrote_and_refuses_the_rest(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text('{"iter": 1, "loss": 2.0, "sparsity/collapsed": 3}\n')

    def plot(*arguments):
        return subprocess.run(
            [sys.executable, str(Path(ROOT) / 'tools/plot_log.py'), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = plot(log, '--out', tmp_path / 'log.png')
    assert done.returncode == 0 and f'Wrote {tmp_path / "log.png"}' in done.stdout, done.stderr
    done = plot(tmp_path / 'none.json', '--out', tmp_path / 'b.png')
    assert done.returncode == 1 and done.stderr.startswith('error: no scalars at ')
