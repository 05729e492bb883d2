"""A folder of pictures: what is read, what is cached, and when the cache is not believed."""

import os

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from mmpsbn.datasets import image_folder


def read(folder, split='train', cache_dir=None):
    return image_folder.load_image_folder(folder, split, cache_dir=cache_dir or folder)


def test_pictures_lie_in_the_order_of_class_and_name(folder):
    images, labels, classes = read(folder)
    assert images.shape == (12, 3, 6, 5) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert classes == ('ant', 'bee', 'cow')
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with Image.open(folder / 'train/bee/2.png') as picture:
        assert np.array_equal(images[6].transpose(1, 2, 0), np.asarray(picture))
    assert len(read(folder, 'test')[0]) == 6


def blank(path, height=6):
    Image.fromarray(np.zeros((height, 5, 3), np.uint8)).save(path)


def damage_cache(folder, keep=0.5, flip=0):
    path = folder / 'train.mmpsbn.npz'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= flip
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize(
    'spoil',
    [
        lambda folder: None,
        lambda folder: blank(folder / 'train/ant/0.png'),
        lambda folder: blank(folder / 'train/cow/9.png'),
        damage_cache,
        lambda folder: damage_cache(folder, keep=1, flip=1),
    ],
)
def test_a_cache_is_read_unless_it_does_not_belong_to_the_files(folder, spoil, monkeypatch):
    read(folder)
    spoil(folder)
    fresh = read(folder, cache_dir=folder / 'elsewhere')
    again = read(folder)
    monkeypatch.setattr(image_folder, '_decode', lambda *args: pytest.fail('decoded'))
    for found in (again, read(folder)):
        assert all(np.array_equal(a, b) for a, b in zip(found, fresh))
    names = {path.name for path in folder.iterdir()}
    assert names == {'test', 'train', 'train.mmpsbn.npz', 'elsewhere'}


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


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda path: path.write_text('no'), 'cannot be decoded .*; replace or remove it'),
        (lambda path: path.write_bytes(b''), 'cannot be decoded .*; replace or remove it'),
        (lambda path: blank(path, height=9), 'has 9x5 pixels and .*ant/0.png 6x5; .*one size'),
    ],
)
def test_a_bad_picture_is_refused(folder, spoil, message):
    spoil(folder / 'train/bee/1.png')
    with pytest.raises(ValueError, match=f'bee/1.png {message}'):
        read(folder, cache_dir=folder / 'cache')


def test_a_folder_without_pictures_is_refused(folder):
    with pytest.raises(FileNotFoundError, match='valid is not a folder; data_root must hold'):
        read(folder, 'valid')
    for path in (folder / 'train').rglob('*.png'):
        path.unlink()
    message = 'train holds no picture; expected .*<class>/<name>.jpg'
    with pytest.raises(FileNotFoundError, match=message):
        read(folder)


def test_pictures_that_cannot_be_kept_are_read_all_the_same(folder, caplog):
    (folder / 'cache').write_text('a file where the folder should be')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    images, *_ = read(folder, cache_dir=folder / 'cache')
    logger.removeHandler(caplog.handler)
    assert np.array_equal(images, read(folder)[0])
    (record,) = [r for r in caplog.records if r.levelname == 'WARNING']
    assert 'train.mmpsbn.npz' in record.message and 'name a writable folder' in record.message


def test_an_empty_class_moves_the_labels_of_those_behind_it(folder):
    read(folder)
    (folder / 'train/bat').mkdir()
    _, labels, classes = read(folder)
    assert classes == ('ant', 'bat', 'bee', 'cow')
    assert labels.tolist() == [0] * 4 + [2] * 4 + [3] * 4
