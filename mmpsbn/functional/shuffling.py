"""A tensor's values at other places: what training found, without where it found it."""

import torch
from torch import Tensor


@torch.no_grad()
def shuffle_(tensor: Tensor, *, generator: torch.Generator) -> None:
    """w_i <- w_pi(i), pi a uniformly drawn permutation of all elements, in place.

    The distribution of the values stays, their relation to each other and to the loss goes
    (psBN paper section 3.6, "Filter selectivity").

    Args:
        tensor: any shape, on any device.
        generator: on the CPU, so that the permutation does not depend on the device.
    """
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.copy_(tensor.flatten()[order].view_as(tensor))
