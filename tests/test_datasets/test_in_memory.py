"""Small pictures in memory: what is read, what is cached, what a loader gets."""

import copy
import hashlib
import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import ConcatDataset

if importlib.util.find_spec('mmpretrain') is None:
    pytest.skip('InMemoryImages needs mmpretrain', allow_module_level=True)

import mmpretrain.datasets  # noqa: E402

from mmpsbn.datasets import InMemoryImages, image_folder  # noqa: E402
from mmpsbn.datasets.in_memory import select_balanced_subset  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('ant', 'bee', 'cow')


@pytest.fixture
def folder(tmp_path):
    """Lossless pictures, 4 of each class for training and 2 for testing."""
    rng = np.random.default_rng(0)
    for split, per_class in (('train', 4), ('test', 2)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f'{i}.png')
    return tmp_path


def read(folder, split='train', **arguments):
    return InMemoryImages(str(folder), split, 'folder', **arguments)


def test_a_folder_becomes_one_tensor_in_the_order_of_class_and_name(folder):
    dataset = read(folder)
    assert dataset.images.shape == (12, 3, 6, 5) and dataset.images.dtype == torch.uint8
    assert dataset.metainfo == dict(classes=CLASSES)
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with Image.open(folder / 'train/bee/2.png') as picture:
        assert np.array_equal(dataset.images[6].permute(1, 2, 0), np.asarray(picture))
    assert len(read(folder, 'test')) == 6


def test_the_second_start_decodes_nothing(folder, monkeypatch):
    first = read(folder)
    monkeypatch.setattr(image_folder, '_decode', lambda *args: pytest.fail('decoded'))
    second = read(folder)
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


def change_pixels(folder):
    path = folder / 'train/ant/0.png'
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(path)


def damage_cache(folder):
    path = folder / 'train.mmpsbn.npz'
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])


def flip_a_bit_of_the_cache(folder):
    path = folder / 'train.mmpsbn.npz'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('spoil', [change_pixels, damage_cache, flip_a_bit_of_the_cache])
def test_a_cache_that_does_not_belong_to_the_files_is_made_again(folder, spoil, monkeypatch):
    read(folder)
    spoil(folder)
    fresh = read(folder, cache_dir=str(folder / 'elsewhere'))
    assert torch.equal(read(folder).images, fresh.images)
    monkeypatch.setattr(image_folder, '_decode', lambda *args: pytest.fail('decoded'))
    assert torch.equal(read(folder).images, fresh.images)


@pytest.mark.parametrize('size, seconds', [(0, 1), (1, 0)])
def test_a_picture_of_another_size_or_time_is_not_taken_from_the_cache(
    folder, monkeypatch, size, seconds
):
    read(folder)
    path = folder / 'train/ant/0.png'
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b' ' * size)
    os.utime(path, ns=(before, before + seconds * 10**9))
    monkeypatch.setattr(image_folder, '_decode', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(folder)


def test_an_added_picture_is_seen(folder):
    assert len(read(folder)) == 12
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(folder / 'train/cow/9.png')
    assert len(read(folder)) == 13
    assert sorted(path.name for path in folder.iterdir()) == ['test', 'train', 'train.mmpsbn.npz']


def not_a_picture(folder):
    (folder / 'train/bee/1.png').write_text('no')


def empty(folder):
    (folder / 'train/bee/1.png').write_bytes(b'')


def another_size(folder):
    Image.fromarray(np.zeros((9, 5, 3), np.uint8)).save(folder / 'train/bee/1.png')


def no_pictures(folder):
    for path in (folder / 'train').rglob('*.png'):
        path.unlink()


def unwritable(folder):
    (folder / 'cache').write_text('a file where the folder should be')


@pytest.mark.parametrize(
    'spoil, error, message',
    [
        (not_a_picture, ValueError, r'bee/1.png cannot be decoded .*; replace or remove it'),
        (empty, ValueError, r'bee/1.png cannot be decoded .*; replace or remove it'),
        (another_size, ValueError, r'bee/1.png has 9x5 pixels and .*ant/0.png 6x5; .*one size'),
        (no_pictures, FileNotFoundError, r'train holds no picture; expected .*<class>/<name>.jpg'),
        (unwritable, OSError, r'cannot write .*train.mmpsbn.npz .*name a writable folder as cache'),
    ],
)
def test_a_bad_folder_is_refused(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        read(folder, cache_dir=str(folder / 'cache'))


def test_other_bad_arguments_are_refused(folder):
    with pytest.raises(FileNotFoundError, match='valid is not a folder; data_root must hold'):
        read(folder, 'valid')
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


def loader_of(folder, seed, **sampler):
    return Runner.build_dataloader(
        dict(
            batch_size=5,
            num_workers=0,
            dataset=dict(type='mmpretrain.InMemoryImages', data_root=str(folder), source='folder'),
            sampler=dict(type='DefaultSampler', shuffle=True, **sampler),
            collate_fn=dict(type='whole_batch_collate'),
        ),
        seed=seed,
    )


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_a_loader_serves_whole_batches_with_every_image_once_an_epoch(folder):
    loader = loader_of(folder, seed=0)
    dataset, index_of = loader.dataset, {}
    for i, image in enumerate(loader.dataset.images):
        index_of[image.numpy().tobytes()] = i
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


def test_augmentation_repeats_with_the_seed_and_differs_by_epoch_rank_and_seed(folder):
    def seeds(seed, epoch, rank=0):
        loader = loader_of(folder, seed=seed)
        loader.sampler.rank, loader.sampler.world_size = rank, 2
        return tuple(batch['augment_seed'] for batch in epoch_of(loader, epoch))

    assert seeds(0, 0) == seeds(0, 0)
    runs = {seeds(0, 0), seeds(0, 1), seeds(9, 0), seeds(0, 0, rank=1), seeds(9, 0, rank=1)}
    assert len(runs) == 5
    assert len({seed for run in runs for seed in run}) == sum(len(run) for run in runs)


def test_a_wrapper_that_knows_only_single_samples_gets_the_same_batches(folder):
    whole = read(folder)
    wrapped = ConcatDataset([whole, read(folder, 'test')])
    loader = Runner.build_dataloader(
        dict(
            batch_size=3,
            num_workers=0,
            dataset=wrapped,
            sampler=DefaultSampler(wrapped, shuffle=False),
            collate_fn=dict(type='whole_batch_collate'),
        )
    )
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
            dict(type='DemPHook', prune=prune, noise=dict(peak_var=0.0)),
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
