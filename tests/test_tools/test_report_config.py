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
    save_weights(loaded.model, str(folder / 'epoch_1.pth'))
    norm = loaded.model.get_submodule('backbone.layer2.0.bn1')
    with torch.no_grad():
        norm.weight[[1, 5, 6]] = 0
        norm.bias[[1, 5, 6]] = -1
    save_weights(loaded.model, str(folder / 'epoch_2.pth'))
    return folder


def test_a_config_with_its_own_data_and_evaluator(folder, tmp_path, capsys):
    checkpoints = [folder / f'epoch_{k}.pth' for k in (1, 2)]
    run(
        *(folder / 'small.py', *checkpoints, '--data', '--out', tmp_path / 'out'),
        *('--num-samples', '3', '--thresholds', '0.001'),
    )
    said, shown = capsys.readouterr()
    found = report(tmp_path / 'out')
    first, last = found['checkpoints']
    assert first['samples'] == 3
    assert last['totals']['collapsed_0.001'] == 3 and first['totals']['collapsed_0.001'] == 0
    row = next(r for r in last['layers'] if r['layer'] == 'backbone.layer2.0.bn1')
    assert row['dead'] >= 3 and row['writer'] == 'backbone.layer2.0.conv1'
    assert last['totals']['removable'] >= 3
    assert last['totals']['macs_removable'] == pytest.approx(_saved_by_pruning(folder))
    assert 'coco/bbox_mAP' in last['scores']
    assert last['clamped_scores']['0.001'] == last['scores']  # they were 0 already
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'Ways through the' in page and 'small: epoch_2.pth' in page
    command = shlex.join(['prune', f'{folder}/small.py', f'{folder}/epoch_2.pth'])
    assert f'mmpsbn {command} --criterion dead' in said
    for text in (said, shown):  # what pycocotools prints
        assert 'Average Precision' not in text and 'loading annotations' not in text


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
    missing = ('--cfg-options', 'test_dataloader.dataset.data_root=nowhere/')
    assert "'nowhere/' (test_dataloader.dataset.data_root) does not exist" in refusal(
        small, good, *out, '--data', *missing
    )
    assert not (tmp_path / 'out').exists()
