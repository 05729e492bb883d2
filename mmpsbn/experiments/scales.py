"""What smoke, small and paper mean for data and hardware; an experiment adds its own lengths."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from mmengine.config import Config
from PIL import Image

from ..datasets import write_digits_dataset
from ..datasets.digits import load_split_digits
from ..datasets.in_memory import InMemoryImages

SCALES = ('smoke', 'small', 'paper')
_SMALL_IMAGES = 10_000  # for training, a fifth
_SMOKE_IMAGES = {10: dict(train=320, val=160), 100: dict(train=300, val=100)}  # by classes
_SMOKE_BOXES = 100


@dataclass(frozen=True)
class Data:
    """The data of an experiment.

    Attributes:
        settings: scale, folder given by the user or None, and folder for what is made -> plain
            settings; FileNotFoundError without the data.
        write: these settings into an arm's config.
    """

    settings: Callable[..., dict[str, Any]]
    write: Callable[[Config, dict[str, Any]], None]


def data_settings(
    scale: str, root: str | None, *, default_folder: Path, classes: int = 10
) -> dict[str, Any]:
    """The data of a scale, as settings of ``InMemoryImages``; those of ``train`` apart.

    ``smoke``: scanned digits as 32x32 pictures, for 100 classes two side by side, made in
    ``default_folder`` or ``root``; ``small``: 10,000 training images, equally many of each class,
    and all test images of CIFAR-10 or CIFAR-100 as JPEG in class folders; ``paper``: the same as
    mmpretrain downloads it, or all of it in class folders, where ``root`` has them.

    Raises:
        FileNotFoundError: ``small`` without its folder.
    """
    name = f'cifar{classes}'
    default = dict(small=f'data/{name}_jpeg', paper=f'data/{name}').get(scale, default_folder)
    folder = Path(root or default).resolve()
    source = 'folder'
    if scale == 'smoke':
        folder = folder / f'digits{classes}'
        _write_digit_folders(folder, classes)
    elif scale == 'small' and not (folder / 'train').is_dir():
        raise FileNotFoundError(
            f'{folder} has no folder train: --scale small reads CIFAR-{classes} as picture files, '
            '<data>/{train,test}/<class>/*.jpg; say where they are with --data'
        )
    elif not (folder / 'train').is_dir():
        source = name.upper()
        InMemoryImages(str(folder), source=source)  # downloads it once, before several arms do
    train = dict(num_samples=_SMALL_IMAGES) if scale == 'small' else {}
    return dict(source=source, data_root=str(folder), train=train)


def set_data(config: Config, settings: dict[str, Any]) -> None:
    """Into the data sets of a config of ``configs/cifar`` with images in memory; what the
    config says itself about ``num_samples`` stays."""
    for split in ('train', 'val', 'test'):
        dataset = config[f'{split}_dataloader'].dataset
        while 'dataset' in dataset:  # a wrapper
            dataset = dataset.dataset
        dataset.update({key: settings[key] for key in ('source', 'data_root')})
        for key, value in settings.get(split, {}).items():
            dataset.setdefault(key, value)


def _boxes(scale: str, root: str | None, *, default_folder: Path) -> dict[str, Any]:
    """``smoke``: the digits of the quickstart, made in ``default_folder`` or ``root``; ``small``
    and ``paper``: ``root``, or the folder that the config names."""
    if scale == 'smoke':
        folder = Path(root or default_folder) / 'boxes'
        counts = dict(num_train=_SMOKE_BOXES, num_val=4)
        write_digits_dataset(str(folder), **counts, image_size=(160, 128), seed=0)
        root = str(folder)
    return {} if root is None else dict(data_root=f'{Path(root).resolve()}/')


def _write_boxes(config: Config, settings: dict[str, Any]) -> None:
    """The files of a folder in COCO format have the names that the config says."""
    if not settings:
        return
    before, now = config.train_dataloader.dataset.data_root, settings['data_root']
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.data_root = now
    for split in ('val', 'test'):
        evaluator = config[f'{split}_evaluator']
        evaluator.ann_file = now + evaluator.ann_file.removeprefix(before)


PICTURES = Data(data_settings, set_data)  # of CIFAR-10, with a class each
PICTURES_100 = Data(partial(data_settings, classes=100), set_data)
BOXES = Data(_boxes, _write_boxes)


def length(epochs: int, *, batch_size: int, bfloat16: bool = False) -> dict[str, Any]:
    """Settings of a training by epochs that is validated at its end and goes on after an
    interruption where its last epoch began."""
    options = {
        'train_dataloader.batch_size': batch_size,
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
    }
    return options | ({'optim_wrapper.type': 'BFloat16OptimWrapper'} if bfloat16 else {})


# each epoch's weights stay, for measures of the way that a parameter takes
KEEP_ALL = {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, max_keep_ckpts=-1)}


def _write_digit_folders(root: Path, classes: int) -> None:
    """scikit-learn's scanned digits, 8x8, as grey 32x32 pictures in folders by class, equally many
    of each; of 100 classes with the tens beside the units. The folder is there whole or not at all,
    and of several processes one writes."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{root}.lock'):
        if root.exists():
            return
        part = root.with_suffix('.part')  # a killed process may have left some of it
        for split, name in dict(train='train', val='test').items():
            digits, labels = load_split_digits(split)
            rows = [[row for row in digits if labels[row] == digit] for digit in range(10)]
            for label in range(classes):
                folder = part / name / f'{label:02}'
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(_SMOKE_IMAGES[classes][split] // classes):
                    width = len(str(classes)) - 1
                    parts = [rows[int(digit)][number] for digit in str(label).zfill(width)]
                    grey = np.concatenate([digits[row] for row in parts], axis=1)
                    pixels = np.repeat(np.round(255 * grey)[..., None], 3, axis=2).astype(np.uint8)
                    Image.fromarray(pixels).resize((32, 32)).save(folder / f'{number}.png')
        part.rename(root)
