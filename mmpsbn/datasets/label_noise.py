"""Training labels made wrong on purpose."""

import numpy as np
import torch
from mmpretrain.registry import DATASETS
from torch.utils.data import Dataset

KINDS = ('uniform', 'permute')


def randomise_labels(labels, *, num_classes, fraction, kind, seed):
    """A copy of the labels in which ``round(fraction * N)`` randomly chosen ones are random.

    Args:
        labels (np.ndarray): int64 (N,) in 0..num_classes - 1.
        num_classes (int): K.
        fraction (float): in 0..1.
        kind (str): 'uniform' draws each chosen label from all K classes, so one in K keeps its
            value by chance; 'permute' shuffles the chosen labels among themselves, so every class
            keeps its size.
        seed (int): of the choice and the draw, >= 0.

    Raises:
        ValueError: ``fraction``, ``kind`` or ``seed`` out of range.
    """
    if not 0 <= fraction <= 1 or seed < 0:
        raise ValueError(f'fraction must be in 0..1 and seed >= 0, got {fraction!r} and {seed!r}')
    if kind not in KINDS:
        raise ValueError(f"kind must be 'uniform' or 'permute', got {kind!r}")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(fraction * len(labels))]
    noisy = labels.copy()
    if kind == 'uniform':
        noisy[chosen] = rng.integers(0, num_classes, len(chosen))
    else:
        # The chosen ones come in random order: sorting them and leaving their labels is a shuffle.
        noisy[np.sort(chosen)] = labels[chosen]
    return noisy


@DATASETS.register_module()
class NoisyLabels(Dataset):
    """A training set with wrong labels; its pictures are untouched.

    Wraps :class:`InMemoryImages` or any classification set of mmpretrain whose pipeline ends in
    ``PackInputs``. All epochs, ranks and resumed runs see the same labels.

    Args:
        dataset (dict): the set to wrap.
        fraction, kind, seed: see :func:`randomise_labels`.

    Attributes:
        labels (Tensor): int64 (N,), as they are after the noise.

    Raises:
        ValueError: an argument out of range, or a set that is not for training.

    Source: Zhang et al., arXiv 1611.03530, section 2.2 (random labels, partially corrupted labels).
    """

    def __init__(self, dataset, fraction=1.0, kind='uniform', seed=0):
        self.dataset = DATASETS.build(dataset)
        split = getattr(self.dataset, 'split', 'train')
        if split != 'train' or getattr(self.dataset, 'test_mode', False):
            raise ValueError(
                f'NoisyLabels is for training sets, got split {split!r} of '
                f'{type(self.dataset).__name__}; leave the labels of val and test as they are'
            )
        how = dict(fraction=fraction, kind=kind, seed=seed)
        labels = np.asarray(self.dataset.get_gt_labels(), dtype=np.int64)
        classes = len(self.dataset.metainfo['classes'])
        self.labels = torch.from_numpy(randomise_labels(labels, num_classes=classes, **how))

    @property
    def metainfo(self):
        return self.dataset.metainfo

    def get_gt_labels(self):
        """int64 array (N,), as mmpretrain's data sets give it."""
        return self.labels.numpy()

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        sample = self.dataset[index]
        sample['data_samples'].set_gt_label(self.labels[index])
        return sample

    def __getitems__(self, indices):
        if not hasattr(self.dataset, '__getitems__'):
            return [self[index] for index in indices]
        batch = self.dataset.__getitems__(indices)
        for sample, label in zip(batch['data_samples'], self.labels[indices].split(1)):
            sample.set_gt_label(label)
        return batch
