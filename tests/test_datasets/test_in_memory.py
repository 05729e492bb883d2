"""Small pictures in memory: what is held, what a loader gets, how a run goes on."""

import copy
import hashlib
import importlib.util
import pickle
from pathlib import Path

import mmpretrain.datasets
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import ConcatDataset

import mmpsbn.datasets
from mmpsbn.datasets import InMemoryImages
from mmpsbn.datasets.in_memory import select_balanced_subset

ROOT = Path(__file__).resolve().parents[2]


def read(folder, split='train', **arguments):
    return InMemoryImages(str(folder), split, 'folder', **arguments)


def test_a_folder_is_kept_decoded_in_itself_or_where_it_is_told(folder):
    dataset = read(folder, cache_dir=str(folder / 'cache'))
    assert dataset.images.dtype == torch.uint8 and dataset.metainfo['classes'][0] == 'ant'
    assert len(read(folder, 'test')) == 6
    for path in ('cache/train', 'test'):
        assert (folder / f'{path}.mmpsbn.npz').is_file()


def test_bad_arguments_are_refused(folder):
    with pytest.raises(ValueError, match="'CIFAR10', 'CIFAR100' or 'folder', got 'MNIST'"):
        InMemoryImages(str(folder), 'train', 'MNIST')
    for arguments in (dict(num_samples=0), dict(num_samples=3, seed=-1)):
        with pytest.raises(ValueError, match='num_samples must be >= 1 and seed >= 0, got'):
            read(folder, **arguments)
    with pytest.raises(ValueError, match='takes 5 samples of class 0, which has 4; ask for fewer'):
        read(folder, num_samples=13)


@pytest.mark.parametrize(
    'name, folder_name, label_key, meta_key',
    [
        ('CIFAR10', 'cifar-10-batches-py', 'labels', 'label_names'),
        ('CIFAR100', 'cifar-100-python', 'fine_labels', 'fine_label_names'),
    ],
)
def test_python_pickles_give_what_mmpretrain_reads_from_them(
    tmp_path, monkeypatch, name, folder_name, label_key, meta_key
):
    rng, files = np.random.default_rng(0), {}
    for file_name in ('batch_a', 'batch_b', 'batch_t'):
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        content = pickle.dumps({'data': pixels, label_key: rng.integers(0, 10, 4).tolist()})
        (tmp_path / folder_name).mkdir(exist_ok=True)
        (tmp_path / folder_name / file_name).write_bytes(content)
        files[file_name] = [file_name, hashlib.md5(content).hexdigest()]
    theirs = getattr(mmpretrain.datasets, name)
    monkeypatch.setattr(theirs, 'train_list', [files['batch_a'], files['batch_b']])
    monkeypatch.setattr(theirs, 'test_list', [files['batch_t']])
    for split, length in (('train', 8), ('test', 4)):
        ours = InMemoryImages(str(tmp_path), split, name)
        ordinary = theirs(data_root=str(tmp_path), split=split)
        assert len(ours) == len(ordinary) == length
        assert ours.metainfo['classes'] == tuple(ordinary.metainfo['classes'])
        assert ours.get_gt_labels().tolist() == ordinary.get_gt_labels().tolist()
        for i in range(length):
            assert np.array_equal(ours.images[i].permute(1, 2, 0), ordinary[i]['img'])


def test_the_first_classes_alone(folder):
    whole, first = read(folder), read(folder, num_classes=2)
    assert first.metainfo == dict(classes=('ant', 'bee'))
    assert torch.equal(first.labels, whole.labels[:8])
    assert torch.equal(first.images, whole.images[:8])
    assert read(folder, num_classes=2, num_samples=5).labels.tolist() == [0, 0, 0, 1, 1]
    for number in (0, 4):
        with pytest.raises(ValueError, match=rf'num_classes must be in 1\.\.3, .*got {number}'):
            read(folder, num_classes=number)


def test_a_subset_is_balanced_reproducible_and_another_with_another_seed(folder):
    dataset = read(folder, num_samples=7, seed=3)
    assert dataset.labels.bincount().tolist() == [3, 2, 2]
    assert torch.equal(dataset.images, read(folder, num_samples=7, seed=3).images)
    labels = torch.arange(1000) % 10
    kept, again, other = (
        select_balanced_subset(labels, num_classes=10, num_samples=105, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(kept, again) and not torch.equal(kept, other)
    assert kept.unique().tolist() == kept.tolist() and len(kept) == 105
    whole = select_balanced_subset(labels, num_classes=10, num_samples=1000, seed=0)
    assert whole.tolist() == list(range(1000))


def in_memory(folder):
    return dict(type='mmpretrain.InMemoryImages', data_root=str(folder), source='folder')


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_a_loader_serves_whole_batches_with_every_image_once_an_epoch(folder, loader_of):
    loader = loader_of(in_memory(folder), batch_size=5, shuffle=True, seed=0)
    dataset = loader.dataset
    index_of = {image.numpy().tobytes(): i for i, image in enumerate(dataset.images)}
    orders = []
    for epoch in (0, 1):
        seen = []
        for batch in epoch_of(loader, epoch):
            assert batch['inputs'].dtype == torch.uint8
            assert len(batch['inputs']) == len(batch['data_samples'])
            for image, sample in zip(batch['inputs'], batch['data_samples']):
                seen.append(index_of[image.numpy().tobytes()])
                assert sample.gt_label.tolist() == [dataset.labels[seen[-1]]]
        assert sorted(seen) == list(range(12))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_augmentation_repeats_with_the_seed_and_differs_by_epoch_rank_and_seed(folder, loader_of):
    def seeds(seed, epoch, rank=0):
        loader = loader_of(in_memory(folder), batch_size=5, shuffle=True, seed=seed)
        loader.sampler.rank, loader.sampler.world_size = rank, 2
        return tuple(batch['augment_seed'] for batch in epoch_of(loader, epoch))

    assert seeds(0, 0) == seeds(0, 0)
    runs = {seeds(0, 0), seeds(0, 1), seeds(9, 0), seeds(0, 0, rank=1), seeds(9, 0, rank=1)}
    assert len(runs) == 5
    assert len({seed for run in runs for seed in run}) == sum(len(run) for run in runs)


def test_a_wrapper_that_knows_only_single_samples_gets_the_same_batches(folder, loader_of):
    whole = read(folder)
    loader = loader_of(ConcatDataset([whole, read(folder, 'test')]), batch_size=3)
    batch, expected = next(iter(loader)), whole.__getitems__([0, 1, 2])
    assert torch.equal(batch['inputs'], expected['inputs'])
    assert [s.gt_label.tolist() for s in batch['data_samples']] == [[0], [0], [0]]
    assert copy.copy(whole)[11]['data_samples'].gt_label.tolist() == [2]


def train(folder, work_dir, **arguments):
    """Two epochs of a ResNet-8 with both hooks and an unmodified runner."""
    config = Config.fromfile(str(ROOT / 'configs/cifar/_base_/cifar10_jpeg_in_memory.py'))
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.batch_size = 5
        loader.dataset.data_root = str(folder)
    prune = dict(interval=2, num_samples=8, on_failure='continue')
    runner = Runner(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=8, base_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
        ),
        work_dir=str(work_dir),
        data_preprocessor=config.data_preprocessor,
        train_dataloader=config.train_dataloader,
        val_dataloader=config.val_dataloader,
        val_evaluator=config.val_evaluator,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        custom_hooks=[
            dict(type='SparsityHook', interval=1),
            dict(type='DemPHook', prune=prune, noise=dict(peak_std=0.0)),
        ],
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        experiment_name=f'{folder.name}-{work_dir.name}',
        **arguments,
    )
    runner.train()
    return runner


def test_a_run_with_both_hooks_repeats_and_resumes_bit_equal(folder, tmp_path):
    whole, again = (train(folder, tmp_path / name) for name in ('whole', 'again'))
    resumed = train(
        folder, tmp_path / 'resumed', resume=True, load_from=str(tmp_path / 'whole/epoch_1.pth')
    )
    for other in (again, resumed):
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name
    correct = whole.message_hub.get_scalar('val/accuracy/top1').current() / 100 * 6
    assert correct == pytest.approx(round(correct), abs=1e-5) and 0 <= round(correct) <= 6


def test_importing_datasets_without_mmpretrain_is_fine(monkeypatch):
    """Detection users need not have mmpretrain: the package imports without its part."""
    whole, real_find_spec = set(mmpsbn.datasets.__all__), importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util,
            'find_spec',
            lambda name, *args: None if name == 'mmpretrain' else real_find_spec(name, *args),
        )
        names = set(importlib.reload(mmpsbn.datasets).__all__)
        assert names == {'CLASSES', 'write_digits_dataset'}
    assert set(importlib.reload(mmpsbn.datasets).__all__) == whole
