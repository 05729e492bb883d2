"""A folder of small pictures as one array: decoded once, then read from a cache."""

import hashlib
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from PIL import Image

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm')
_FORMAT_VERSION = 1  # raise it when the same files would give another array


def load_image_folder(data_root, split, *, cache_dir):
    """The pictures of ``<data_root>/<split>/<class>/*`` and their labels.

    The first call decodes every file and writes ``<cache_dir>/<split>.mmpsbn.npz``; a later one
    reads that file as long as the names, sizes and modification times of the pictures are those it
    was made from, and decodes again otherwise.

    Args:
        data_root (str | Path): holds the splits.
        split (str): the folder of this split: 'train', 'test', 'val', ...
        cache_dir (str | Path): its folder; where it cannot be written, a warning says so.

    Returns:
        tuple: uint8 (N, 3, H, W) in RGB; int64 (N,), the index of the class; the names of the
        classes in alphabetical order. Pictures lie in the order of class and file name.

    Raises:
        FileNotFoundError: no such folder, or not a picture in it.
        ValueError: a file that is no picture, or pictures of different sizes.
    """
    folder = Path(data_root) / split
    classes, files = _list_pictures(folder)
    key = _key_of(folder, files)
    cache_path = Path(cache_dir) / f'{split}.mmpsbn.npz'
    pixels = _read_cache(cache_path, key)
    if pixels is None:
        print_log(f'decoding {len(files)} pictures of {folder}, once', logger='current')
        pixels = _decode(folder, files)
        _write_cache(cache_path, key=key, pixels=pixels)
    labels = {name: index for index, name in enumerate(classes)}
    return pixels, np.array([labels[name.split('/')[0]] for name in files]), classes


def _list_pictures(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is not a folder; data_root must hold the split in it')
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    files = [
        f'{name}/{file_name}'
        for name in classes
        for file_name in sorted(os.listdir(folder / name))
        if file_name.lower().endswith(_SUFFIXES)
    ]
    if not files:
        raise FileNotFoundError(
            f'{folder} holds no picture; expected {folder}/<class>/<name>.jpg '
            f'(or {", ".join(_SUFFIXES[1:])})'
        )
    return classes, files


def _key_of(folder, files):
    """Changes with every change of a file that alters its name, size or modification time."""
    digest = hashlib.sha256(f'version {_FORMAT_VERSION}\n'.encode())
    root = str(folder)
    for name in files:
        stat = os.stat(f'{root}/{name}')
        digest.update(f'{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def _decode(folder, files):
    pixels = None
    for i, name in enumerate(files):
        try:
            with Image.open(folder / name) as file:
                picture = np.asarray(file.convert('RGB'))
        except OSError as error:  # also what Pillow raises for a file that is no picture
            raise ValueError(
                f'{folder / name} cannot be decoded ({error}); replace or remove it'
            ) from error
        if pixels is None:
            pixels = np.empty((len(files), 3, *picture.shape[:2]), np.uint8)
        if picture.shape[:2] != pixels.shape[2:]:
            raise ValueError(
                f'{folder / name} has {picture.shape[0]}x{picture.shape[1]} pixels and '
                f'{folder / files[0]} {pixels.shape[2]}x{pixels.shape[3]}; pictures held as one '
                'array must have one size'
            )
        pixels[i] = picture.transpose(2, 0, 1)
    return pixels


def _read_cache(path, key):
    """None where there is none, or none that belongs to these files."""
    try:
        with np.load(path) as content:
            return content['pixels'] if str(content['key']) == key else None
    # A damaged cache is as good as none: np.load raises one of these.
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write_cache(path, **content):
    """Complete or not at all: other ranks may be reading or writing it."""
    building = path.with_name(f'{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(building, 'wb') as file:
            np.savez(file, **content)
        os.replace(building, path)
    except OSError as error:
        print_log(
            f'the decoded pictures cannot be kept in {path} ({error}), and will be decoded at each '
            'start; name a writable folder as cache_dir',
            logger='current',
            level=logging.WARNING,
        )
