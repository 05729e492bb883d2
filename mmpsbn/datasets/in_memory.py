"""Small pictures held in memory and served as whole batches."""

import zlib

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from .image_folder import load_image_folder


@FUNCTIONS.register_module()
def whole_batch_collate(data_batch, _scope_=None):
    """For a data set that makes whole batches: passes them on; a list of samples is stacked.

    ``_scope_``, not used, is what MMEngine (0.10.7, 0.10.12) hands to the collate function of an
    inherited config.
    """
    return data_batch if isinstance(data_batch, dict) else default_collate(data_batch)


@DATASETS.register_module()
class InMemoryImages(Dataset):
    """A classification set as one uint8 tensor, which a DataLoader reads batch by batch.

    Decoding, collating and per-sample pipelines fall away; :class:`BatchCropFlip` augments and
    normalises. A batch is ``dict(inputs=uint8 (B, 3, H, W), data_samples=[DataSample, ...],
    augment_seed=int)``. ``augment_seed`` is a hash of the indices of the batch: two epochs, two
    ranks and two sampler seeds differ in their order, hence in their augmentation, and a resumed
    run repeats that of an uninterrupted one. Without shuffling every epoch has the same one.

    The loader needs ``collate_fn=dict(type='whole_batch_collate')``; ``num_workers=0`` is best,
    since there is nothing left for a worker to do.

    Args:
        data_root (str): folder of the data.
        split (str): 'train' or 'test'; with ``source='folder'`` the name of a folder.
        source (str): 'CIFAR10' or 'CIFAR100' for the python pickles as mmpretrain's class of that
            name reads (and downloads) them; 'folder' for ``<data_root>/<split>/<class>/*.jpg``,
            all of one size.
        num_samples (int, optional): keep this many, as many of each class as of any other (the
            first classes get the remainder), drawn without replacement. Default: all.
        seed (int): of that draw, >= 0.
        num_classes (int, optional): keep the pictures of the first so many classes. Default: all.
        cache_dir (str, optional): where the decoded folder is kept. Default: ``data_root``.

    Attributes:
        images (Tensor): uint8 (N, 3, H, W), RGB.
        labels (Tensor): int64 (N,).
        metainfo (dict): ``classes``, their names.

    Raises:
        ValueError: ``source``, ``seed``, ``num_samples`` or ``num_classes`` out of range.
        FileNotFoundError: see :func:`load_image_folder`.
    """

    def __init__(
        self,
        data_root,
        split='train',
        source='CIFAR10',
        num_samples=None,
        seed=0,
        num_classes=None,
        cache_dir=None,
    ):
        if source == 'folder':
            images, labels, classes = load_image_folder(
                data_root, split, cache_dir=cache_dir or data_root
            )
        elif source in ('CIFAR10', 'CIFAR100'):
            images, labels, classes = _load_cifar(source, data_root, split)
        else:
            raise ValueError(f"source must be 'CIFAR10', 'CIFAR100' or 'folder', got {source!r}")
        if num_classes is not None:
            if not 1 <= num_classes <= len(classes):
                raise ValueError(
                    f'num_classes must be in 1..{len(classes)}, the classes of {data_root}, got '
                    f'{num_classes!r}'
                )
            kept = labels < num_classes
            images, labels, classes = images[kept], labels[kept], classes[:num_classes]
        self.split = split
        self.metainfo = dict(classes=tuple(classes))
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        if num_samples is not None:
            kept = select_balanced_subset(
                self.labels, num_classes=len(classes), num_samples=num_samples, seed=seed
            )
            self.images, self.labels = self.images[kept], self.labels[kept]

    def __len__(self):
        return len(self.labels)

    def get_gt_labels(self):
        """int64 array (N,), as mmpretrain's data sets give it."""
        return self.labels.numpy()

    def __getitem__(self, index):
        return dict(
            inputs=self.images[index], data_samples=DataSample().set_gt_label(self.labels[index])
        )

    def __getitems__(self, indices):
        return dict(
            inputs=self.images[indices],
            # 1-element views, which set_gt_label takes as they are: int would be slower
            data_samples=[DataSample().set_gt_label(one) for one in self.labels[indices].split(1)],
            augment_seed=zlib.crc32(np.asarray(indices, dtype=np.int64).tobytes()),
        )


def select_balanced_subset(labels, *, num_classes, num_samples, seed):
    """The indices, in ascending order, of a random subset with equal shares of the classes.

    Class c gets ``num_samples // num_classes`` samples, and one more if
    ``c < num_samples % num_classes``. labels: int64 (N,).

    Raises:
        ValueError: ``num_samples`` < 1, ``seed`` < 0 or a class with too few samples.
    """
    if num_samples < 1 or seed < 0:
        raise ValueError(
            f'num_samples must be >= 1 and seed >= 0, got {num_samples!r} and {seed!r}'
        )
    rng = np.random.default_rng(seed)
    kept = []
    for label in range(num_classes):
        share = num_samples // num_classes + (label < num_samples % num_classes)
        indices = np.flatnonzero(labels.numpy() == label)
        if len(indices) < share:
            raise ValueError(
                f'num_samples={num_samples} takes {share} samples of class {label}, '
                f'which has {len(indices)}; ask for fewer'
            )
        kept.append(rng.permutation(indices)[:share])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def _load_cifar(name, data_root, split):
    dataset = DATASETS.build(
        dict(type=f'mmpretrain.{name}', data_root=data_root, split=split, lazy_init=True)
    )
    samples = dataset.load_data_list()
    images = np.stack([sample['img'] for sample in samples])  # (N, H, W, 3)
    labels = np.array([sample['gt_label'] for sample in samples], dtype=np.int64)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, dataset.metainfo['classes']
