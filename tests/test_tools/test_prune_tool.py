"""tools/prune.py on a small detector: a checkpoint goes in and a smaller one comes out."""

import re

import pytest
import torch
from mmengine.config import Config
from small_detector import (
    assert_near,
    images,
    next_commands,
    outputs,
    run_tool,
    write_small_detector,
)
from torch import nn

from mmpsbn.commands.model_files import load_model, save_weights
from mmpsbn.commands.recalibration import recalibrate_batch_norms

DEAD = ('backbone.layer2.0.bn1', [1, 5, 6])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """``small.py``, ``dense.pth``, and ``planted.pth`` with three dead channels."""
    folder = tmp_path_factory.mktemp('small')
    cfg = write_small_detector(folder)
    loaded = load_model(cfg, str(folder / 'dense.pth'))
    norm = loaded.model.get_submodule(DEAD[0])
    with torch.no_grad():
        norm.weight[DEAD[1]] = 0
        norm.bias[DEAD[1]] = -1
    save_weights(
        loaded.model, str(folder / 'planted.pth'), dataset_meta=loaded.dataset_meta, epoch=3
    )
    return folder


@pytest.fixture
def prune(folder, tmp_path, capsys):
    """Run the tool; returns what it printed. Its files go to ``tmp_path``."""

    def run(checkpoint, *arguments):
        run_tool(
            'prune',
            folder / 'small.py',
            checkpoint if '/' in str(checkpoint) else folder / checkpoint,
            '--out',
            tmp_path,
            '--device',
            'cpu',
            *arguments,
        )
        return capsys.readouterr().out

    return run


def refusal(prune, *arguments):
    with pytest.raises(SystemExit) as stopped:
        prune(*arguments)
    message = str(stopped.value)
    assert message.startswith('error: ') and '\n' not in message
    return message


@pytest.fixture
def load(folder, tmp_path):

    def run(name):
        path = folder / name if (folder / name).exists() else tmp_path / name
        return load_model(Config.fromfile(str(folder / 'small.py')), str(path))

    return run


def dense_macs_left(said):
    return float(re.search(r'([\d.]+)% of the dense MACs are left', said)[1]) / 100


def test_dead_channels_go_and_the_function_stays(prune, load):
    said = prune('planted.pth', '--criterion', 'dead', '--num-samples', '6', '--round-to', '1')
    before, after = load('planted.pth'), load('planted_dead.pth')
    assert before.model.backbone.layer2[0].conv1.out_channels == 16
    assert after.model.backbone.layer2[0].conv1.out_channels == 13
    kept = [i for i in range(16) if i not in DEAD[1]]
    assert after.plan.kept['backbone.layer2.0.bn1.weight'] == {0: tuple(kept)}
    x = images()
    assert_near(outputs(after.model, x), outputs(before.model, x))
    row = re.search(r'backbone.layer2.0.conv1 +16 +13 +81.2%', said)
    assert row and 'parameters' in said and 'MACs at 128x160' in said


def test_what_to_run_next_can_be_pasted_whatever_the_folders_are_called(prune, folder, tmp_path):
    out = tmp_path / "blood cells' nets"
    said = prune('planted.pth', '--criterion', 'dead', '--round-to', '1', '--out', out)
    config, checkpoint = str(folder / 'small.py'), str(out / 'planted_dead.pth')
    assert next_commands(said) == [
        ['test', config, checkpoint],
        ['train', config, '--cfg-options', f'load_from={checkpoint}'],
        ['export', config, checkpoint, '--out', str(out)],
    ]


def test_collapsed_channels_go_where_their_constant_can_be_folded(prune, load, tmp_path):
    loaded = load('dense.pth')
    with torch.no_grad():  # a constant 0.5, read by a zero-padded convolution
        loaded.model.backbone.layer2[0].bn1.weight[4] = 0
        loaded.model.backbone.layer2[0].bn1.bias[4] = 0.5
    path = tmp_path / 'constant.pth'
    save_weights(loaded.model, str(path))
    arguments = (path, '--criterion', 'collapsed', '--round-to', '1')
    assert "criterion 'collapsed' finds nothing to remove" in refusal(prune, *arguments)
    message = refusal(prune, *arguments, '--fold-padding')
    assert 'changes the outputs by' in message and 'tolerance 1.0e-05' in message
    said = prune(*arguments, '--fold-padding', '--tolerance', '1')
    assert re.search(r'backbone.layer2.0.conv1 +16 +15 ', said)
    pruned = load('constant_collapsed.pth')
    assert_near(outputs(pruned.model, images()), outputs(loaded.model, images()), tolerance=0.3)


@pytest.mark.parametrize('criterion', ['bn_scale', 'l1', 'random', 'uniform'])
def test_the_budget_is_met(prune, load, criterion):
    said = prune('dense.pth', '--criterion', criterion, '--target-flops', '0.5', '--round-to', '1')
    assert abs(dense_macs_left(said) - 0.5) < 0.02
    pruned = load(f'dense_{criterion}.pth')
    assert pruned.plan and pruned.dataset_meta == load('dense.pth').dataset_meta
    assert outputs(pruned.model, images()).isfinite().all()


def test_widths_are_multiples_of_eight_by_default(prune, load):
    prune('dense.pth', '--criterion', 'l1', '--target-flops', '0.6')
    widths = {
        name: module.out_channels
        for name, module in load('dense_l1.pth').model.named_modules()
        if isinstance(module, nn.Conv2d) and 'retina' not in name  # the head's outputs
    }
    assert len(set(widths.values())) > 2 and all(width % 8 == 0 for width in widths.values())


def test_the_file_is_plain_and_goes_on_with_test_and_train(prune, folder, tmp_path, capsys):
    prune('dense.pth', '--criterion', 'l1', '--target-flops', '0.6')
    path = tmp_path / 'dense_l1.pth'
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    assert set(checkpoint['meta']) == {'cfg', 'dataset_meta', 'mmpsbn'}
    assert [p.name for p in tmp_path.iterdir()] == ['dense_l1.pth']
    run_tool('test', folder / 'small.py', path, '--work-dir', tmp_path / 'test')
    run_tool(
        'train',
        folder / 'small.py',
        '--work-dir',
        tmp_path / 'train',
        '--cfg-options',
        f'load_from={path}',
    )
    trained = torch.load(tmp_path / 'train/epoch_1.pth', weights_only=False)
    assert trained['meta']['mmpsbn']['plan'] == checkpoint['meta']['mmpsbn']['plan']
    for name, tensor in trained['state_dict'].items():
        assert tensor.shape == checkpoint['state_dict'][name].shape


def test_a_pruned_checkpoint_is_pruned_further(prune, load, tmp_path):
    prune('planted.pth', '--criterion', 'dead', '--round-to', '1')
    first = load('planted_dead.pth')
    said = prune(
        tmp_path / 'planted_dead.pth',
        *('--criterion', 'uniform', '--target-flops', '0.4', '--round-to', '1'),
    )
    assert abs(dense_macs_left(said) - 0.4) < 0.02  # of the dense model, not of the first
    both = load('planted_dead_uniform.pth')
    kept = both.plan.kept['backbone.layer2.0.bn1.weight'][0]
    assert set(kept) < set(first.plan.kept['backbone.layer2.0.bn1.weight'][0])
    message = refusal(
        prune, tmp_path / 'planted_dead_uniform.pth', '--criterion', 'l1', '--target-flops', '0.9'
    )
    assert '90.00% of the dense MACs cannot be reached' in message


def test_statistics_are_estimated_anew(prune, load):
    arguments = ('--criterion', 'l1', '--target-flops', '0.6', '--force')
    prune('dense.pth', *arguments)
    stale = load('dense_l1.pth').model
    prune('dense.pth', *arguments, '--recalibrate', '2')
    fresh = load('dense_l1.pth').model
    moved = [
        name
        for name, buffer in fresh.named_buffers()
        if name.endswith('running_mean') and not torch.equal(buffer, stale.get_buffer(name))
    ]
    assert len(moved) == sum(isinstance(m, nn.BatchNorm2d) for m in fresh.modules())
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, dict(stale.named_parameters())[name]), name
    assert fresh.backbone.bn1.num_batches_tracked == 2 and fresh.backbone.bn1.momentum == 0.1


def test_the_new_statistics_are_the_mean_over_batches():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.9))
    model[0].eval(), model[1].train()
    model.forward = lambda x, mode: nn.Sequential.forward(model, x)
    batches = torch.randn(3, 4, 2, 5, 5)
    recalibrate_batch_norms(model, iter(batches))
    norm = model[0]
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1, 3, 4)))
    torch.testing.assert_close(norm.running_var, batches.transpose(1, 2).flatten(2).var(2).mean(0))
    assert norm.momentum == 0.1 and not norm.training and model[1].training


def test_what_cannot_be_done_is_said_in_a_sentence(prune, folder, tmp_path):
    l1 = ('--criterion', 'l1')
    assert 'needs a budget: give --target-flops' in refusal(prune, 'dense.pth', *l1)
    assert '--target-flops must be in (0, 1), got 1.5' in refusal(
        prune, 'dense.pth', *l1, '--target-flops', '1.5'
    )
    assert "'dead' finds nothing to remove (widths in multiples of 8)" in refusal(
        prune, 'dense.pth', '--criterion', 'dead'
    )
    assert 'goes with bn_scale, l1' in refusal(
        prune, 'dense.pth', '--criterion', 'dead', '--target-flops', '0.5'
    )
    assert "checkpoint '/no.pth' does not exist" in refusal(
        prune, '/no.pth', *l1, '--target-flops', '0.5'
    )
    assert '1.00% of the dense MACs cannot be reached: 100.00% are left now' in refusal(
        prune, 'dense.pth', *l1, '--target-flops', '0.01'
    )
    wider = 'model.backbone.base_channels=16'
    assert 'has shape (8, 3, 7, 7) in the checkpoint and (16, 3, 7, 7) in the model' in refusal(
        prune, 'dense.pth', *l1, '--target-flops', '0.5', '--cfg-options', wider
    )
    for option, value in (('--num-samples', '0'), ('--round-to', '0'), ('--recalibrate', '-1')):
        message = refusal(prune, 'dense.pth', '--criterion', 'dead', option, value)
        assert f'{option} must be >= ' in message and f'got {value}' in message
    missing = 'train_dataloader.dataset.data_root=nowhere/'
    assert "'nowhere/' (train_dataloader.dataset.data_root) does not exist" in refusal(
        prune, 'dense.pth', *l1, '--target-flops', '0.5', '--cfg-options', missing
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_overwritten_only_where_asked_for(prune, tmp_path):
    arguments = ('dense.pth', '--criterion', 'random', '--target-flops', '0.6')
    (tmp_path / 'dense_random.pth').write_text('mine')
    assert "dense_random.pth' exists; give another --out, or --force" in refusal(prune, *arguments)
    assert (tmp_path / 'dense_random.pth').read_text() == 'mine'
    prune(*arguments, '--force')
    assert torch.load(tmp_path / 'dense_random.pth', weights_only=True)['meta']['mmpsbn']
