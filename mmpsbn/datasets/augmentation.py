"""The standard CIFAR augmentation on whole batches, wherever they lie."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import MODELS


def draw_crops_and_flips(num_images, *, padding, flip_prob, generator):
    """The upper and the left edge of a random crop of each of B padded images, int64 (B,), uniform
    on 0..2 * padding, and which images are flipped, bool (B,), with probability ``flip_prob``.
    Drawn on the CPU, by torch's own generator where it is None.
    """
    top, left = torch.randint(0, 2 * padding + 1, (2, num_images), generator=generator)
    return top, left, torch.rand(num_images, generator=generator) < flip_prob


def crop_and_flip(images, top, left, flipped, *, padding):
    """Crops of the zero-padded images, then mirrored where ``flipped``.

    out[b, c, i, j] = padded[b, c, top[b] + i, left[b] + j'] with j' = W - 1 - j where flipped[b],
    else j.

    Args:
        images (Tensor): (B, C, H, W) of any type and device; a new one of that shape comes back.
        top, left, flipped (Tensor): of :func:`draw_crops_and_flips`.
        padding (int): pixels of zeros added on each side.
    """
    height, width = images.shape[-2:]
    top, left, flipped = (draw.to(images.device) for draw in (top, left, flipped))
    padded = F.pad(images, (padding,) * 4)
    # All crops as a view, (B, C, 2 * padding + 1, 2 * padding + 1, H, W); only the drawn are read.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flipped[:, None, None, None], crops.flip(-1), crops)


@MODELS.register_module()
class BatchCropFlip(BaseDataPreprocessor):
    """Batches of uint8 images, augmented while training, and normalised: (x - mean) / std.

    Made for :class:`InMemoryImages`, whose batches carry the seed of their augmentation; any loader
    of images of one size will do, and then torch's own generator draws (MMEngine seeds it alike on
    all ranks unless ``randomness=dict(diff_rank_seed=True)``).

    ``dict(inputs=(B, 3, H, W) or a list of (3, H, W), data_samples=..., augment_seed=...)`` ->
    ``dict(inputs=float32 (B, 3, H, W), data_samples=...)`` on the model's device.

    Args:
        mean (list[float]): of the R, G and B channels in 0..255.
        std (list[float]): likewise, > 0.
        padding (int): zeros added on each side before cropping, >= 0.
        flip_prob (float): of a horizontal flip, in 0..1.
        batch_augments (None): mmpretrain's classifier hands its ``train_cfg`` on under this name.

    Raises:
        ValueError: an argument out of range.

    Source: He et al., arXiv 1512.03385, section 4.2.
    """

    def __init__(self, mean, std, padding=4, flip_prob=0.5, batch_augments=None):
        super().__init__()
        if batch_augments is not None:
            raise ValueError(
                'BatchCropFlip crops and flips only; for mixup and the like use '
                f"mmpretrain's ClsDataPreprocessor, got {batch_augments!r}"
            )
        if padding < 0 or not 0 <= flip_prob <= 1 or min(std) <= 0:
            raise ValueError(
                'padding must be >= 0, flip_prob in 0..1 and std > 0, '
                f'got {padding!r}, {flip_prob!r} and {std!r}'
            )
        self.padding, self.flip_prob = padding, flip_prob
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data, training=False):
        images = self.cast_data(data['inputs'])
        if not isinstance(images, torch.Tensor):
            images = torch.stack(list(images))
        if training:
            seed = data.get('augment_seed')
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            how = dict(padding=self.padding, flip_prob=self.flip_prob, generator=generator)
            draws = draw_crops_and_flips(len(images), **how)
            images = crop_and_flip(images, *draws, padding=self.padding)
        data_samples = data.get('data_samples')
        if data_samples and 'gt_label' in data_samples[0]:
            _move_labels(data_samples, images.device)
        return dict(inputs=(images.float() - self.mean) / self.std, data_samples=data_samples)


def _move_labels(data_samples, device):
    """In one copy for the batch, not one per sample; none where they lie there already."""
    if data_samples[0].gt_label.device != device:
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(device)
        for sample, label in zip(data_samples, labels.split(1)):
            sample.set_gt_label(label)
