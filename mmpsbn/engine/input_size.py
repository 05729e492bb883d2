"""The size of the images that MACs are counted on: the config's, not the first batch's."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..pruning.cost import count_positions
from ..pruning.forward import observing
from .openmmlab import crop, forward_tensors


def count_at_one_size(
    model: nn.Module, cfg: Config, traced: Tensor
) -> tuple[dict[str, float], tuple[int, ...]]:
    """How often each weight is applied to one image (see ``count_positions``), and the image's
    size: that of :func:`pipeline_size`, cropped as for tracing, so that all runs of a config
    count on the same, whatever their first batch. Where the config does not say, or the
    model does not take that size, it is that of ``traced``.

    Args:
        traced: one image as the model sees it, on which the model was traced.
    """
    try:
        image = crop(traced.new_zeros(1, traced.size(1), *pipeline_size(cfg)))
        return count_positions(model, image, forward_tensors), tuple(image.shape[2:])
    except Exception:  # whatever a model that takes another size alone raises
        return count_positions(model, traced, forward_tensors), tuple(traced.shape[2:])


def pipeline_size(cfg: Config) -> tuple[int, int]:
    """Height and width that the test pipeline gives an image, padded as the
    data_preprocessor does.

    Raises:
        ValueError: the pipeline does not say.
    """
    dataset = _part(_part(cfg, 'test_dataloader'), 'dataset')
    while dataset:
        for step in reversed(dataset.get('pipeline') or []):
            size = step.get('crop_size') or step.get('scale')  # (width, height) in a Resize
            if size is not None:
                width, height = (size, size) if isinstance(size, int) else size
                divisor = _part(_part(cfg, 'model'), 'data_preprocessor').get('pad_size_divisor', 1)
                return -(-height // divisor) * divisor, -(-width // divisor) * divisor
        joined = dataset.get('datasets')  # a ConcatDataset has several
        dataset = _part(dict(dataset=joined[0]) if joined else dataset, 'dataset')
    raise ValueError('the test pipeline resizes to no fixed size; give --input-size HEIGHT WIDTH')


def noise_images(model: nn.Module, count: int, size: tuple[int, int]) -> Tensor:
    """Always the same, of a height and width, on the model's device, normalised as by a
    data_preprocessor: of three channels, or where the model does not take these, of as many as the
    first convolution of its modules reads."""
    some = next(model.parameters())
    read = (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    channels = next(read, 3)
    if channels != 3 and _runs(model, some.new_zeros(1, 3, *size)):  # YOLOX has four pixels in one
        channels = 3
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, *size, generator=generator).to(some.device)


def _runs(model: nn.Module, image: Tensor) -> bool:
    try:
        with observing(model):
            forward_tensors(model, image)
    except Exception:  # whatever a model that takes other pictures alone raises
        return False
    return True


def _part(node: Mapping, key: str) -> Mapping[str, Any]:
    """A group of settings; empty where there is none, or an object that is built already."""
    part = node.get(key)
    return part if isinstance(part, Mapping) else {}
