"""Floor 2, with MMEngine: the embedded detection set, and small pictures in memory for mmpretrain.

Importing this package registers the latter where mmpretrain is installed.
"""

from importlib.util import find_spec

from .digits import CLASSES, write_digits_dataset

__all__ = ['CLASSES', 'write_digits_dataset']

if find_spec('mmpretrain') is not None:
    from .augmentation import BatchCropFlip
    from .in_memory import InMemoryImages, whole_batch_collate
    from .label_noise import NoisyLabels

    __all__ += ['BatchCropFlip', 'InMemoryImages', 'NoisyLabels', 'whole_batch_collate']
