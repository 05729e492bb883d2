"""Theorem 1 of the psBN paper against what happened between two checkpoints."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...functional.statistics import activation_probability
from ...functional.theory import activation_probability_change
from ...pruning.sparsity import scale_layers
from .snapshot import Snapshot

# Beyond this step over |gamma| the theorem is an order of magnitude: functional.theory
_LARGEST_STEP = 0.3


@dataclass(frozen=True)
class Drop:
    """Mean activation probability Phi(b / |gamma|) of a layer between two checkpoints."""

    layer: str
    channels: int  # that the mean is over
    left_out: int  # these had a gamma smaller than the steps
    grad_std: float  # c, standard deviation of the noise in dL/dy
    before: float  # mean Phi at the first checkpoint
    predicted: float  # its change by noise alone, Theorem 1, summed over the steps
    observed: float  # its change


def gradient_noise(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, float]:
    """Norm layer -> c, the standard deviation of the noise in dL/dy that a batch leaves.

    In equation 1 of the paper beta moves by -lr g H with H = [gamma xhat + beta > 0] and noise
    g of mean 0 and variance c^2, independent of H, so Var[dL/dbeta] = c^2 Phi(b / |gamma|).
    Hence c^2 = sum over channels of the variance of dL/dbeta over batches, divided by the sum
    of Phi. The batch is the one the losses are of: its mean and the correlation between its
    positions are in c. The mean of dL/dbeta, the signal, is not.

    Args:
        losses: of the model in training mode, a scalar for each batch; two or more.

    Returns:
        Of the layers whose bias is trained and gets a gradient.
    """
    layers = {
        name: dict(layer.named_parameters(recurse=False)).get('bias')
        for name, layer in scale_layers(model).items()
    }
    layers = {n: bias for n, bias in layers.items() if bias is not None and bias.requires_grad}
    grads: dict[str, list[Tensor]] = {name: [] for name in layers}
    for loss in losses:
        found = torch.autograd.grad(loss, list(layers.values()), allow_unused=True)
        for name, grad in zip(layers, found):
            if grad is not None:
                grads[name].append(grad.detach().double().cpu())
    noise = {}
    for name, seen in grads.items():
        if len(seen) < 2:
            continue
        layer = model.get_submodule(name)
        gamma, bias = layer.weight.detach().double().cpu(), layer.bias.detach().double().cpu()
        active = activation_probability(gamma, bias).nansum()
        noise[name] = math.sqrt(float(torch.stack(seen).var(0).sum() / active))
    return noise


def drops_between(
    before: Snapshot,
    after: Snapshot,
    noise: Mapping[str, float],
    *,
    lrs: Sequence[float],
) -> list[Drop]:
    """Predicted and observed change of Phi, by layer.

    Theorem 1 is about one step of plain SGD from where gamma and beta are; it is summed over
    the steps with these held at ``before``. The loss's own gradient and weight decay are in what
    was observed only (decay of gamma and beta alike leaves b / |gamma|, and Phi, as it was).

    Args:
        noise: c by layer at ``before``, see :func:`gradient_noise`.
        lrs: of the steps between the two, see :class:`.Course`.
    """
    squares, largest = math.fsum(lr * lr for lr in lrs), max(lrs, default=0.0)
    rows = []
    for name, grad_std in noise.items():
        first, last = before.layers.get(name), after.layers.get(name)
        if first is None or last is None or len(first.bias) != len(last.bias):
            continue  # pruned in between
        gamma, bias = first.gamma.double(), first.bias.double()
        use = (gamma.abs() * _LARGEST_STEP > largest * grad_std) & gamma.isfinite()
        use &= last.gamma.isfinite()
        if not use.any():
            continue
        per_step = activation_probability_change(gamma[use], bias[use], lr=1.0, grad_std=grad_std)
        active = activation_probability(gamma[use], bias[use]).mean()
        active_then = activation_probability(last.gamma.double()[use], last.bias.double()[use])
        rows.append(
            Drop(
                layer=name,
                channels=int(use.sum()),
                left_out=int((~use).sum()),
                grad_std=grad_std,
                before=float(active),
                predicted=squares * float(per_step.mean()),
                observed=float(active_then.mean() - active),
            )
        )
    return rows
