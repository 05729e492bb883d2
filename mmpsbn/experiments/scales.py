"""What smoke, small and paper mean for data and hardware; an experiment adds its own lengths."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from ..datasets import write_digits_dataset
from ..datasets.digits import load_split_digits
from ..datasets.in_memory import InMemoryImages

SCALES = ('smoke', 'small', 'paper')
_DEFAULT_DATA = dict(small='data/cifar10_jpeg', paper='data/cifar10')
SMALL_IMAGES = 10_000  # for training, a fifth
_SMOKE_IMAGES = dict(train=320, val=160)
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


def data_settings(scale: str, root: str | None, *, default_folder: Path) -> dict[str, Any]:
    """The data of a scale, as settings of ``InMemoryImages``; those of ``train`` apart.

    ``smoke``: scanned digits as 32x32 pictures, made in ``default_folder`` or ``root``;
    ``small``: 10,000 training images, equally many of each class, and all test images of the
    JPEG CIFAR-10 in class folders; ``paper``: CIFAR-10 as mmpretrain downloads it, or all of it in
    class folders, where ``root`` has them.

    Raises:
        FileNotFoundError: ``small`` without its folder.
    """
    folder = Path(root or _DEFAULT_DATA.get(scale, default_folder)).resolve()
    if scale == 'paper' and (folder / 'train').is_dir():
        return dict(source='folder', data_root=str(folder), train={})
    if scale == 'paper':
        # which downloads it, if need be: here once, before several arms do
        InMemoryImages(str(folder), source='CIFAR10')
        return dict(source='CIFAR10', data_root=str(folder), train={})
    if scale == 'small':
        if not (folder / 'train').is_dir():
            raise FileNotFoundError(
                f'{folder} has no folder train: --scale small reads CIFAR-10 as picture files, '
                '<data>/{train,test}/<class>/*.jpg; say where they are with --data'
            )
        train = dict(num_samples=SMALL_IMAGES)
        return dict(source='folder', data_root=str(folder), train=train)
    _write_digit_folders(folder)
    return dict(source='folder', data_root=str(folder), train={})


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


PICTURES = Data(data_settings, set_data)  # of CIFAR, with a class each
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


def _write_digit_folders(root: Path) -> None:
    """scikit-learn's scanned digits, 8x8, as grey 32x32 pictures in folders by class: 320 for
    training, 160 to test. What is there is left."""
    for split, folder in dict(train='train', val='test').items():
        digits, labels = load_split_digits(split)
        count = _SMOKE_IMAGES[split]
        for row in list(digits)[:: len(digits) // count][:count]:
            path = root / folder / str(labels[row]) / f'{row}.png'
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.repeat(np.round(255 * digits[row])[..., None], 3, axis=2)
                Image.fromarray(pixels.astype(np.uint8)).resize((32, 32)).save(path)
