"""Which weights are kept, one by one. Masks are bool, of a weight's shape, True = keep."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# From dense to sparse in the course of training; and as sparse from the start to the end.
GRADUAL_METHODS = ('magnitude', 'saliency')
DYNAMIC_METHODS = ('set', 'rigl')
DISTRIBUTIONS = ('uniform', 'erk')


def densities(
    shapes: Sequence[Sequence[int]], *, sparsity: float, distribution: str
) -> list[float]:
    """The share of its weights that each layer keeps.

    ``'uniform'``: 1 - s of each. ``'erk'`` (Erdos-Renyi kernel; RigL, 1911.11134, section 3.1):
    eps * sum(shape) / prod(shape), at most 1, with the eps by which 1 - s of all weights are kept.

    Args:
        shapes: of the weights, as (C_out, C_in, k_h, k_w).
        sparsity: s, in [0, 1).
    """
    if distribution == 'uniform':
        return [1 - sparsity] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes)]
    dense: set[int] = set()
    while True:  # a layer that would keep more than all is dense, and the others share the rest
        others = [i for i in range(len(shapes)) if i not in dense]
        kept = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        eps = kept / sum(raw[i] * sizes[i] for i in others) if others else 0.0
        full = {i for i in others if eps * raw[i] > 1}
        if not full:
            return [1.0 if i in dense else eps * raw[i] for i in range(len(shapes))]
        dense |= full


def gradual_share(progress: float) -> float:
    """Of the final sparsity, what is reached: 1 - (1 - p)^3 with p in [0, 1] the part of the
    updates that is over (Zhu and Gupta, 1710.01878, eq. 1)."""
    return 1 - (1 - progress) ** 3


def drop_share(progress: float, *, peak: float) -> float:
    """Of the kept weights, what an update replaces: peak / 2 * (1 + cos(pi p)) (RigL, 1911.11134,
    section 3.2)."""
    return peak / 2 * (1 + math.cos(math.pi * progress))


def count_kept(size: int, density: float) -> int:
    """max(1, density * size), to the nearest integer."""
    return max(1, round(density * size))


def select_largest(scores: Tensor, number: int) -> Tensor:
    """The mask of the ``number`` largest scores; ties keep the lower index. Any shape."""
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[:number]] = True
    return mask.view_as(scores)


def select_random(shape: Sequence[int], number: int, generator: torch.Generator) -> Tensor:
    """A mask of ``number`` places, each as likely; on the CPU, the same for the same generator."""
    return select_largest(torch.rand(tuple(shape), generator=generator), number)


def select_by_score(
    method: str, mask: Tensor, weight: Tensor, gradient: Tensor, number: int
) -> Tensor:
    """The ``number`` weights of a mask with the largest |w| (``'magnitude'``) or |w . dL/dw|
    (``'saliency'``; the first-order change of the loss without w, as SNIP's 1810.02340)."""
    scores = weight.abs() if method == 'magnitude' else (weight * gradient).abs()
    return select_largest(scores.masked_fill(~mask, -1.0), number)


def replace_weights(
    method: str,
    mask: Tensor,
    weight: Tensor,
    gradient: Tensor,
    number: int,
    generator: torch.Generator,
) -> Tensor:
    """Drop the ``number`` kept weights with the smallest |w|, and grow as many.

    ``'set'`` grows at random (Mocanu et al., 1707.04780), ``'rigl'`` where |dL/dw| is largest
    (Evci et al., 1911.11134, algorithm 1); among all weights that are not kept after the drop, so
    that what was dropped may come back.
    """
    size = int(mask.sum())
    kept = select_largest(weight.abs().masked_fill(~mask, -1.0), size - number)
    if method == 'rigl':
        growth = gradient.abs()
    else:
        growth = torch.rand(mask.shape, generator=generator).to(mask.device)
    return kept | select_largest(growth.masked_fill(kept, -1.0), number)


def mask_state_(state: dict, masked: Tensor) -> None:
    """Set to 0 what an optimizer keeps of each weight that is ``masked``, the inverse of a mask:
    momenta, second moments."""
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == masked.shape:
            value.masked_fill_(masked, 0)
