"""`mmpsbn report` on a config and its checkpoints."""

import shlex
import shutil

import pytest
import small_detector
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from small_detector import load, report, run_tool

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from mmpsbn.analysis.report.config import ConfigSubject  # noqa: E402
from mmpsbn.commands.model_files import load_model, save_weights  # noqa: E402
from mmpsbn.engine.openmmlab import (  # noqa: E402
    example_inputs,
    forward_tensors,
    trace_at_any_size,
)
from mmpsbn.pruning import prune_dead_channels  # noqa: E402
from mmpsbn.pruning.cost import count_positions, model_cost  # noqa: E402


def run(*arguments):
    run_tool('sparsity_report', *arguments, '--device', 'cpu')


def refusal(*arguments):
    return small_detector.refusal(run, *arguments)


@pytest.fixture(scope='module')
def folder(small, tmp_path_factory):
    """``small.py`` and two checkpoints of it; in ``epoch_2.pth`` three channels are dead."""
    folder = tmp_path_factory.mktemp('epochs')
    shutil.copy(small / 'small.py', folder)
    loaded = load(small / 'small.py', small / 'dense.pth')
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
    assert last['totals']['macs_removable'] == pytest.approx(_saved_by_pruning(folder))
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


def _saved_by_pruning(folder):
    """MACs that pruning saves on the very images the report looked at."""
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


def test_the_length_of_an_epoch_in_a_checkpoint_from_the_middle_of_one(folder):
    cfg, path = Config.fromfile(str(folder / 'small.py')), folder / 'middle.pth'
    checkpoint = torch.load(folder / 'epoch_1.pth', weights_only=True)
    checkpoint['meta'] |= dict(iter=150, epoch=1)
    planned = dict(runtime_info=dict(max_iters=1200, max_epochs=12))
    for hub, length in ((planned, 100), (None, 150)):
        torch.save(dict(checkpoint, message_hub=hub), path)
        assert load_model(cfg, str(path)).epoch_length == length


def test_noise_is_that_of_the_batches_of_a_step(folder):
    def noise(counts):
        cfg = Config.fromfile(str(folder / 'small.py'))
        cfg.optim_wrapper.accumulative_counts = counts
        subject = ConfigSubject(cfg, use_data=True, input_size=None, device='cpu')
        return subject.gradient_noise(subject.load(str(folder / 'epoch_1.pth')))

    one, four = noise(1), noise(4)
    assert one and {name: c / 2 for name, c in one.items()} == pytest.approx(four)


@pytest.mark.parametrize(
    'hooks, looked',
    [
        ([], None),
        ([dict(type='SparsityHook', measures=['collapsed'])], None),
        ([dict(type='SparsityHook')], ('the last 2 batches of the training data', 0.0)),
        (
            [dict(type='mmpsbn.SparsityHook', activations=dict(num_batches=1, eps=0.5))],
            ('the last 1 batch of the training data', 0.5),
        ),
        (
            [dict(type='SparsityHook', activations=dict(loader=dict(batch_size=4)))],
            ('the first 2 batches of its own loader', 0.0),
        ),
    ],
)
def test_what_the_training_log_looks_at(small, hooks, looked):
    cfg = Config.fromfile(str(small / 'small.py'))
    cfg.custom_hooks = hooks
    subject = ConfigSubject(cfg, use_data=False, input_size=None, device='cpu')
    assert subject.log_looks_at() == looked
