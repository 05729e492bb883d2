"""Weights that stay: which of a tensor's move, and whether the others are the same to the bit."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def random_weight_mask(
    weight: Tensor, *, per_channel: int, channel_dim: int, generator: torch.Generator
) -> Tensor:
    """``per_channel`` weights of each output channel, drawn without replacement; True = drawn.

    All of a channel's where it has no more than that (Frankle et al. section 4 and appendix F).

    Args:
        weight: of a convolution or a linear layer.
        per_channel: >= 1.
        channel_dim: of the output channels: 0, or 1 of a transposed convolution.
        generator: on the CPU, so that the mask does not depend on the device.

    Returns:
        Shape of ``weight``, bool, on its device.
    """
    by_channel = weight.movedim(channel_dim, 0)
    channels, inputs = by_channel.shape[0], by_channel[0].numel()
    order = torch.rand(channels, inputs, generator=generator).argsort(1)
    mask = (order < per_channel).view(by_channel.shape).movedim(0, channel_dim)
    return mask.to(weight.device)


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of the tensors, one after the other; equal for bit-equal ones."""
    sha = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().flatten()
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
