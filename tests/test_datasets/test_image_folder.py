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


def test_the_second_start_decodes_nothing(folder, monkeypatch):
    first = read(folder)
    monkeypatch.setattr(image_folder, '_decode', lambda *args: pytest.fail('decoded'))
    second = read(folder)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


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
    fresh = read(folder, cache_dir=folder / 'elsewhere')
    assert np.array_equal(read(folder)[0], fresh[0])
    monkeypatch.setattr(image_folder, '_decode', lambda *args: pytest.fail('decoded'))
    assert np.array_equal(read(folder)[0], fresh[0])


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
    assert len(read(folder)[0]) == 12
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(folder / 'train/cow/9.png')
    assert len(read(folder)[0]) == 13
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


@pytest.mark.parametrize(
    'spoil, error, message',
    [
        (not_a_picture, ValueError, r'bee/1.png cannot be decoded .*; replace or remove it'),
        (empty, ValueError, r'bee/1.png cannot be decoded .*; replace or remove it'),
        (another_size, ValueError, r'bee/1.png has 9x5 pixels and .*ant/0.png 6x5; .*one size'),
        (no_pictures, FileNotFoundError, r'train holds no picture; expected .*<class>/<name>.jpg'),
    ],
)
def test_a_bad_folder_is_refused(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        read(folder, cache_dir=folder / 'cache')


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


def test_a_missing_split_is_refused(folder):
    with pytest.raises(FileNotFoundError, match='valid is not a folder; data_root must hold'):
        read(folder, 'valid')
