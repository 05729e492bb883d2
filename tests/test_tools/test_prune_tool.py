"""mmpsbn prune on a small detector: a checkpoint goes in and a smaller one comes out."""

import re
import threading

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from small_detector import assert_near, images, load, next_commands, outputs, refusal, run
from snapshots import assert_same
from torch import nn

from mmpsbn.commands.model_files import save_weights
from mmpsbn.pruning.reconstruction import InputMoments

DEAD = ('backbone.layer2.0.bn1', [1, 5, 6])
OPTIONS = ('train_dataloader.batch_size=2', 'model.bbox_head.loss_cls.gamma=1.5')
L1 = ('--criterion', 'l1', '--target-flops', '0.6')


def prune(small, checkpoint, out, *arguments):
    """Checkpoints are those of ``small`` or paths."""
    return run(
        *('prune', small / 'small.py', small / checkpoint, '--out', out, '--device', 'cpu'),
        *arguments,
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """For the checkpoints that several tests read; its name needs quotes in a shell."""
    return tmp_path_factory.mktemp("blood cells' nets")


@pytest.fixture(scope='module')
def planted(small, folder):
    """``dense.pth`` with three dead channels."""
    loaded = load(small / 'small.py', small / 'dense.pth')
    norm = loaded.model.get_submodule(DEAD[0])
    with torch.no_grad():
        norm.weight[DEAD[1]] = 0
        norm.bias[DEAD[1]] = -1
    save_weights(loaded.model, str(folder / 'planted.pth'), epoch=3)
    return folder / 'planted.pth'


@pytest.fixture(scope='module')
def dead(small, folder, planted):
    """``planted_dead.pth`` and what was printed."""
    options = ('--criterion', 'dead', '--num-samples', '6', '--cfg-options', *OPTIONS)
    said = prune(small, planted, folder, *options)
    return folder / 'planted_dead.pth', said


@pytest.fixture(scope='module')
def by_l1(small, folder):
    """``dense_l1.pth`` with widths of eight, and what was printed."""
    return folder / 'dense_l1.pth', prune(small, 'dense.pth', folder, *L1)


def loaded_config(small):
    return Config.fromfile(str(small / 'small.py'))


def dense_macs_left(said):
    return float(re.search(r'([\d.]+)% of the dense MACs are left', said)[1]) / 100


def test_dead_channels_go_and_the_function_stays(small, planted, dead):
    path, said = dead
    before, after = load(small / 'small.py', planted), load(small / 'small.py', path)
    assert before.model.backbone.layer2[0].conv1.out_channels == 16
    assert after.model.backbone.layer2[0].conv1.out_channels == 13
    kept = [i for i in range(16) if i not in DEAD[1]]
    assert after.plan.kept['backbone.layer2.0.bn1.weight'] == {0: tuple(kept)}
    assert_near(outputs(after.model, images()), outputs(before.model, images()))
    assert re.search(r'backbone.layer2.0.conv1 +16 +13 +81.2%', said)
    assert 'parameters' in said and 'MACs at 128x160' in said


def test_what_to_run_next_can_be_pasted_whatever_the_folders_are_called(small, folder, dead):
    config, checkpoint = str(small / 'small.py'), str(dead[0])
    assert next_commands(dead[1]) == [
        [*words, '--cfg-options', *OPTIONS]
        for words in (
            ['test', config, checkpoint],
            ['train', config, '--load-from', checkpoint],
            ['export', config, checkpoint, '--out', str(folder)],
        )
    ]


def test_a_pruned_checkpoint_is_pruned_further(small, dead, tmp_path):
    uniform = ('--criterion', 'uniform', '--target-flops', '0.4')
    said = prune(small, dead[0], tmp_path, *uniform)
    assert abs(dense_macs_left(said) - 0.4) < 0.02  # of the dense model, not of the first
    first, both = (
        load(small / 'small.py', path).plan.kept['backbone.layer2.0.bn1.weight'][0]
        for path in (dead[0], tmp_path / 'planted_dead_uniform.pth')
    )
    assert set(both) < set(first)
    again = (small, tmp_path / 'planted_dead_uniform.pth', tmp_path, '--criterion', 'bn_scale')
    message = refusal(prune, *again, '--target-flops', '0.9')
    assert 'are left already, no more than the 90.00% asked for' in message


@pytest.mark.slow
def test_collapsed_channels_go_where_their_constant_can_be_folded(small, tmp_path):
    loaded = load(small / 'small.py', small / 'dense.pth')
    with torch.no_grad():  # a constant 0.5, read by a zero-padded convolution
        loaded.model.backbone.layer2[0].bn1.weight[4] = 0
        loaded.model.backbone.layer2[0].bn1.bias[4] = 0.5
    save_weights(loaded.model, str(tmp_path / 'constant.pth'))
    arguments = (small, tmp_path / 'constant.pth', tmp_path, '--criterion', 'collapsed')
    assert "criterion 'collapsed' finds nothing to remove" in refusal(prune, *arguments)
    message = refusal(prune, *arguments, '--fold-padding')
    assert 'changes the outputs by' in message and 'tolerance 1.0e-05' in message
    said = prune(*arguments, '--fold-padding', '--tolerance', '1')
    assert re.search(r'backbone.layer2.0.conv1 +16 +15 ', said)
    pruned = load(small / 'small.py', tmp_path / 'constant_collapsed.pth')
    assert_near(outputs(pruned.model, images()), outputs(loaded.model, images()), tolerance=0.3)


def test_the_budget_is_met_with_widths_of_eight(small, by_l1):
    path, said = by_l1
    assert abs(dense_macs_left(said) - 0.6) < 0.6 * 0.02
    model = load(small / 'small.py', path).model
    widths = {
        name: module.out_channels
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and 'retina' not in name  # the head's outputs
    }
    assert len(set(widths.values())) > 2 and all(width % 8 == 0 for width in widths.values())
    assert outputs(model, images()).isfinite().all()


def test_a_budget_that_eight_misses_is_met_in_finer_multiples(small, tmp_path):
    said = prune(
        small,
        'dense.pth',
        tmp_path,
        *('--criterion', 'uniform', '--target-flops', '0.5', '--no-reconstruct'),
    )
    assert abs(dense_macs_left(said) - 0.5) < 0.5 * 0.02
    assert re.search('widths in multiples of [421];', said)


def test_no_finer_widths_are_asked_for_than_were_tried(small, tmp_path):
    how = ('--criterion', 'l1', '--target-flops', '0.01')
    said = refusal(prune, small, 'dense.pth', tmp_path, *how)
    assert said.endswith('at least one channel a layer); ask for that')


def test_a_checkpoint_that_is_small_enough_is_left_alone(small, by_l1, tmp_path):
    path, _ = by_l1
    said = refusal(prune, small, path, tmp_path, '--criterion', 'l1', '--target-flops', '0.7')
    assert re.search('(60|59)[.].*% of the dense MACs are left already, no more than', said)
    assert list(tmp_path.iterdir()) == []


def test_what_stays_takes_over_unless_it_is_not_to(small, by_l1, tmp_path):
    prune(small, 'dense.pth', tmp_path, *L1, '--no-reconstruct')
    dense, taken, plain = (
        load(small / 'small.py', path)
        for path in (small / 'dense.pth', by_l1[0], tmp_path / 'dense_l1.pth')
    )
    assert taken.plan == plain.plan
    whole, pruned = dense.model.state_dict(), plain.model.state_dict()
    for name, dims in plain.plan.kept.items():  # without it, weights are slices
        slices = whole[name]
        for dim, index in dims.items():
            slices = slices.index_select(dim, torch.tensor(index))
        assert torch.equal(pruned[name], slices)
    intact, *others = (outputs(found.model, images()) for found in (dense, taken, plain))
    with_it, without = ((intact - other).norm() for other in others)
    assert with_it < 0.99 * without  # of random weights


def test_what_stays_takes_over_from_all_taps_together(small, by_l1, tmp_path, monkeypatch):
    def each_place_alone(model, groups, *, taps):
        return InputMoments(model, groups)

    monkeypatch.setattr('mmpsbn.commands.training_look.InputMoments', each_place_alone)
    prune(small, 'dense.pth', tmp_path, *L1)
    intact, together, alone = (
        outputs(load(small / 'small.py', path).model, images())
        for path in (small / 'dense.pth', by_l1[0], tmp_path / 'dense_l1.pth')
    )
    assert (intact - together).norm() < (intact - alone).norm()


def test_without_a_loss_no_layer_shows_what_it_reads(small, tmp_path, monkeypatch):
    def fail(model, data_batch):
        raise TypeError('no labels')

    monkeypatch.setattr('mmpsbn.commands.training_look.batch_loss', fail)
    message = refusal(prune, small, 'dense.pth', tmp_path, *L1)
    assert '(TypeError: no labels)' in message and message.endswith('--no-reconstruct')
    prune(small, 'dense.pth', tmp_path, *L1, '--no-reconstruct')


def test_the_file_is_plain(small, by_l1):
    checkpoint = torch.load(by_l1[0], weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    assert set(checkpoint['meta']) == {'cfg', 'dataset_meta', 'mmpsbn'}
    dense = torch.load(small / 'dense.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta'] == dense['meta']['dataset_meta']


@pytest.mark.slow
def test_it_goes_on_with_test_and_train(small, by_l1, tmp_path):
    options = ('--work-dir', tmp_path, '--tta', '--show-dir', 'shown')
    run('test', small / 'small.py', by_l1[0], *options)
    assert len(list(tmp_path.glob('*/shown/*.jpg'))) == 4
    run('train', small / 'small.py', '--load-from', by_l1[0], '--work-dir', tmp_path)
    pruned = torch.load(by_l1[0], weights_only=True)
    trained = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert trained['meta']['mmpsbn']['plan'] == pruned['meta']['mmpsbn']['plan']
    for name, tensor in trained['state_dict'].items():
        assert tensor.shape == pruned['state_dict'][name].shape


@pytest.mark.slow
def test_statistics_are_estimated_anew(small, by_l1, tmp_path):
    said = prune(small, 'dense.pth', tmp_path, *L1, '--recalibrate', '2')
    assert re.search(r'of their maximum, before statistics were estimated anew\.', said)
    stale, fresh = (
        load(small / 'small.py', path).model for path in (by_l1[0], tmp_path / 'dense_l1.pth')
    )
    moved = [
        name
        for name, buffer in fresh.named_buffers()
        if name.endswith('running_mean') and not torch.equal(buffer, stale.get_buffer(name))
    ]
    assert len(moved) == sum(isinstance(m, nn.BatchNorm2d) for m in fresh.modules())
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, stale.get_parameter(name)), name
    assert fresh.backbone.bn1.num_batches_tracked == 2 and fresh.backbone.bn1.momentum == 0.1


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('fisher', 'needs a budget: give --target-flops'),
        ('l1', 'needs a budget: give --target-flops'),
        ('l1 --target-flops 1.5', '--target-flops must be in (0, 1), got 1.5'),
        ('dead --target-flops 0.5', 'goes with fisher, bn_scale, l1'),
        ('dead --num-samples 0', '--num-samples must be >= 1, got 0'),
        ('dead --round-to 0', '--round-to must be >= 1, got 0'),
        ('dead --recalibrate -1', '--recalibrate must be >= 0, got -1'),
        ('dead --tolerance -1', '--tolerance must be >= 0, got -1'),
        ('dead --round-to 8', "'dead' finds nothing to remove (widths in multiples of 8)"),
        (
            'l1 --target-flops 0.01 --round-to 8',
            '1.00% of the dense MACs cannot be reached: 100.00% are left now',
        ),
        (
            'uniform --target-flops 0.5 --no-reconstruct --round-to 8',
            'in multiples of 8, at least one channel a layer); ask for that, or for a smaller',
        ),
        (
            'random --target-flops 0.99 --no-reconstruct --round-to 8',
            '100.00% of the dense MACs are left already, which is near enough to 99.00% of the '
            'dense MACs (widths in multiples of 8); ask for less, or for a smaller --round-to',
        ),
        (
            'l1 --target-flops 0.5 --cfg-options model.backbone.base_channels=16',
            'has shape (8, 3, 7, 7) in the checkpoint and (16, 3, 7, 7) in the model',
        ),
        (
            'dead --cfg-options train_dataloader.dataset.data_root=nowhere/',
            "'nowhere/' (train_dataloader.dataset.data_root) does not exist",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(small, tmp_path, arguments, message):
    said = refusal(prune, small, 'dense.pth', tmp_path, '--criterion', *arguments.split())
    assert message in said and list(tmp_path.iterdir()) == []


def test_fisher_takes_what_the_losses_of_training_pictures_miss_least(small, planted, tmp_path):
    """Against the losses' gradients by themselves, on a model of its own."""
    half = ('--target-flops', '0.5', '--num-samples', '8')  # fisher, where none is said
    said = prune(small, planted, tmp_path, *half)
    assert abs(dense_macs_left(said) - 0.5) < 0.02
    first = load(small / 'small.py', tmp_path / 'planted_fisher.pth').plan.kept
    loaded = load(small / 'small.py', planted)
    set_random_seed(0)
    loader = Runner.build_dataloader(loaded_config(small).train_dataloader, seed=0)
    norm = loaded.model.get_submodule(DEAD[0])
    squares = torch.zeros(16)
    for batch in loader:
        losses = loaded.model(**loaded.model.data_preprocessor(batch, True), mode='loss')
        loaded.model.zero_grad()
        loaded.model.parse_losses(losses)[0].backward()
        squares += (norm.weight.grad * norm.weight + norm.bias.grad * norm.bias).square()
    (kept,) = first[f'{DEAD[0]}.weight'].values()
    assert not set(kept) & set(DEAD[1])
    assert set(kept) == set(squares.argsort(descending=True)[: len(kept)].tolist())


FISHER = ('--target-flops', '0.5', '--num-samples', '8')


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def test_what_a_training_would_freeze_is_chosen_as_the_rest(small, planted, tmp_path):
    frozen = ('model.backbone.frozen_stages=2', 'model.backbone.norm_cfg.requires_grad=False')
    prune(small, planted, tmp_path / 'all', *FISHER)
    prune(small, planted, tmp_path / 'frozen', *FISHER, '--cfg-options', *frozen)
    assert_same(*(weights(tmp_path / f'{name}/planted_fisher.pth') for name in ('frozen', 'all')))


@pytest.mark.parametrize('criterion', [('dead',), ('l1', *FISHER), ('fisher', *FISHER)])
def test_a_sampler_that_never_ends_gives_each_look_its_data(small, planted, tmp_path, criterion):
    name = criterion[0]
    anew = ('--recalibrate', '3') if name == 'l1' else ()
    for kind in ('DefaultSampler', 'InfiniteSampler'):
        sampler = [f'train_dataloader.sampler.{k}' for k in (f'type={kind}', 'shuffle=False')]
        options = ('--criterion', *criterion, '--num-samples', '8', *anew)
        prune(small, planted, tmp_path / kind, *options, '--cfg-options', *sampler)
    ends, never = (weights(path) for path in sorted(tmp_path.glob(f'*/planted_{name}.pth')))
    assert_same(never, ends)


@DATASETS.register_module(force=True)
class WithALock(CocoDataset):
    """What cannot be copied, as the handle of an archive."""

    def __init__(self, **kwargs):
        self.lock = threading.Lock()
        super().__init__(**kwargs)


@pytest.mark.parametrize('data', ['num_batch_per_epoch=1', 'dataset.type=WithALock'])
@pytest.mark.parametrize('criterion', [('dead',), ('fisher', *FISHER)])
def test_any_data_that_train_will_do(small, planted, tmp_path, data, criterion):
    options = ('--recalibrate', '3', '--cfg-options', f'train_dataloader.{data}')
    said = prune(small, planted, tmp_path, '--criterion', *criterion, *options)
    assert 'of the dense MACs are left' in said


def test_what_hooks_have_written_down_is_kept(small, tmp_path):
    loaded = load(small / 'small.py', small / 'dense.pth')
    marks = dict(psbn_alpha_added=True, mmpsbn_not_grown={'backbone.bn1': [0.0, 1.0]})
    save_weights(loaded.model, str(tmp_path / 'marked.pth'), **marks)
    prune(small, tmp_path / 'marked.pth', tmp_path, *L1)
    export = ('--out', tmp_path / 'exported')
    run('export', small / 'small.py', tmp_path / 'marked_l1.pth', *export)
    for path, kept in (('marked_l1.pth', marks), ('exported/small.pth', ['psbn_alpha_added'])):
        meta = torch.load(tmp_path / path, weights_only=True)['meta']
        assert {key: meta[key] for key in marks if key in meta} == {k: marks[k] for k in kept}


def test_a_config_needs_no_default_scope(small, tmp_path):
    without = ('--cfg-options', 'default_scope=None', 'model._scope_=mmdet')
    assert 'of the dense MACs are left' in prune(small, 'dense.pth', tmp_path, *L1, *without)
    run('export', small / 'small.py', tmp_path / 'dense_l1.pth', '--out', tmp_path, *without)


def test_a_file_is_read_where_it_is_and_overwritten_only_where_asked_for(small, tmp_path):
    arguments = (tmp_path, '--criterion', 'random', '--target-flops', '0.5')
    message = refusal(prune, small, '/no.pth', *arguments)
    assert "checkpoint '/no.pth' does not exist" in message
    (tmp_path / 'dense_random.pth').write_text('mine')
    message = refusal(prune, small, 'dense.pth', *arguments)
    assert "dense_random.pth' exists; give another --out, or --force" in message
    assert (tmp_path / 'dense_random.pth').read_text() == 'mine'
    said = prune(small, 'dense.pth', *arguments, '--force')
    assert abs(dense_macs_left(said) - 0.5) < 0.02
    assert torch.load(tmp_path / 'dense_random.pth', weights_only=True)['meta']['mmpsbn']
    assert [path.name for path in tmp_path.iterdir()] == ['dense_random.pth']
