"""What smoke, small and paper mean for data and hardware; an experiment adds its own lengths."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..datasets.digits import load_split_digits

SCALES = ('smoke', 'small', 'paper')
DEFAULT_DATA = dict(smoke='digits', small='data/cifar10_jpeg', paper='data/cifar10')
_SMALL_IMAGES = 10_000  # every fifth
_SMOKE_IMAGES = dict(train=320, val=160)


def data_options(scale: str, data_root: str) -> dict[str, Any]:
    """The data of a scale, over a config of ``configs/cifar`` with images in memory.

    ``smoke``: scanned digits as 32x32 pictures, made in ``data_root``; ``small``: 10,000
    training images, equally many of each class, and all test images of the JPEG CIFAR-10 in
    class folders; ``paper``: CIFAR-10 as mmpretrain downloads it.

    Raises:
        FileNotFoundError: ``small`` without its folder.
    """
    if scale == 'paper':
        source, settings = 'CIFAR10', {}
    elif scale == 'small':
        source, settings = 'folder', dict(num_samples=_SMALL_IMAGES)
        if not (Path(data_root) / 'train').is_dir():
            raise FileNotFoundError(
                f'{data_root} has no folder train: --scale small reads CIFAR-10 as picture files, '
                '<data>/{train,test}/<class>/*.jpg; say where they are with --data'
            )
    else:
        source, settings = 'folder', {}
        write_digit_folders(data_root)
    options = {f'train_dataloader.dataset.{key}': value for key, value in settings.items()}
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.dataset.source'] = source
        options[f'{split}_dataloader.dataset.data_root'] = data_root
    return options


def write_digit_folders(root: str) -> None:
    """scikit-learn's scanned digits, 8x8, as grey 32x32 pictures in folders by class: 320 for
    training, 160 to test. What is there is left."""
    for split, folder in dict(train='train', val='test').items():
        digits, labels = load_split_digits(split)
        for row in list(digits)[:: len(digits) // _SMOKE_IMAGES[split]]:
            path = Path(root) / folder / str(labels[row]) / f'{row}.png'
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.repeat(np.round(255 * digits[row])[..., None], 3, axis=2)
                Image.fromarray(pixels.astype(np.uint8)).resize((32, 32)).save(path)
