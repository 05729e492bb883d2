"""Masks of a model's weights: what they hold, what they leave, and how they are saved."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import broadcast
from torch import Tensor, nn
from torch.optim import Optimizer

from ...functional.sparse_weights import (
    GRADUAL_METHODS,
    count_kept,
    densities,
    drop_share,
    gradual_share,
    mask_state_,
    replace_weights,
    select_by_score,
    select_random,
)
from ...pruning.forward import is_conv_or_linear


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers, by name, in the model's order; a shared one
    once."""
    layers = {name for name, module in model.named_modules() if is_conv_or_linear(module)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith('weight') and name.removesuffix('weight').rstrip('.') in layers
    }


def maskable_weights(model: nn.Module, dense: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Those of :func:`layer_weights` that are trained.

    Args:
        dense: pieces of names; what has one of them stays dense. None: the first weight.

    Raises:
        ValueError: a piece is in no name, or nothing is left.
    """
    weights = {name: w for name, w in layer_weights(model).items() if w.requires_grad}
    unknown = [piece for piece in dense or () if not any(piece in name for name in weights)]
    if unknown:
        raise ValueError(
            f'dense={unknown} is in the name of no trained weight of {type(model).__name__}; '
            f'these are {list(weights)}'
        )
    if dense is None:  # as a piece it might be in other names too: conv1 of a ResNet is
        left = dict(list(weights.items())[1:])
    else:
        left = {n: w for n, w in weights.items() if not any(piece in n for piece in dense)}
    if not left:
        raise ValueError(
            f'{type(model).__name__} has no trained weight that could be sparse: with '
            f'dense={dense!r} all of {list(weights)} stay'
        )
    return left


class WeightMasks:
    """The masks of some weights, and the weights that they hold at 0.

    Args:
        weights: by name.
        method, sparsity, distribution, drop_fraction: see :class:`.SparseWeightsHook`.
        seed: the same on every rank.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        method: str,
        sparsity: float,
        distribution: str,
        drop_fraction: float,
        seed: int,
    ):
        self._weights, self._method, self._seed = weights, method, seed
        self._drop_fraction = drop_fraction
        shapes = [tuple(weight.shape) for weight in weights.values()]
        shares = densities(shapes, sparsity=sparsity, distribution=distribution)
        self._densities = dict(zip(weights, shares))
        self.masks: dict[str, Tensor] = {}
        self._masked: dict[str, Tensor] = {}  # their inverse, which each step needs
        for name, weight in weights.items():
            if method in GRADUAL_METHODS:
                self._set(name, torch.ones_like(weight, dtype=torch.bool))
            else:
                kept = count_kept(weight.numel(), self._densities[name])
                mask = select_random(weight.shape, kept, self._generator(name, 0))
                self._set(name, mask.to(weight.device))

    def _set(self, name: str, mask: Tensor) -> None:
        self.masks[name], self._masked[name] = mask, ~mask

    def state(self) -> dict[str, Tensor]:
        """On the CPU, by name."""
        return {name: mask.cpu() for name, mask in self.masks.items()}

    def restore(self, masks: Mapping[str, Tensor]) -> None:
        """Go on with what :meth:`state` gave.

        Raises:
            ValueError: they are of other weights.
        """
        theirs, ours = ({n: tuple(m.shape) for n, m in of.items()} for of in (masks, self.masks))
        if theirs != ours:
            raise ValueError(
                'the checkpoint cannot be resumed: it has masks of '
                f'{sorted(theirs.items() - ours.items())}, and this run has masks of '
                f'{sorted(ours.items() - theirs.items())}; resume with the settings it began with'
            )
        for name, weight in self._weights.items():
            self._set(name, masks[name].to(weight.device))

    @torch.no_grad()
    def update(self, progress: float, step: int) -> None:
        """New masks, from weights and gradients as they are.

        Args:
            progress: part of the updates that is over, in [0, 1].
            step: iterations done, for the random numbers.
        """
        for name, weight in self._weights.items():
            mask = self.masks[name]
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            of_it = self._method, mask, weight, gradient
            if self._method in GRADUAL_METHODS:
                density = 1 - gradual_share(progress) * (1 - self._densities[name])
                new = select_by_score(*of_it, count_kept(weight.numel(), density))
            else:
                share = drop_share(progress, peak=self._drop_fraction)
                number = min(round(share * int(mask.sum())), int(self._masked[name].sum()))
                new = replace_weights(*of_it, number, self._generator(name, step))
            alike = new.to(torch.uint8)
            broadcast(alike)  # a rounding error must not part the ranks
            self._set(name, alike.bool())
        self.hold_weights()  # before the step, whose weight decay would go into a momentum

    @torch.no_grad()
    def hold_gradients(self, optimizer: Optimizer) -> None:
        """Gradients, and what the optimizer remembers, are 0 where a weight is masked."""
        for name, weight in self._weights.items():
            mask_state_(optimizer.state.get(weight, {}), self._masked[name])
            if weight.grad is not None:
                weight.grad.masked_fill_(self._masked[name], 0)

    @torch.no_grad()
    def hold_weights(self) -> None:
        """Masked weights are 0."""
        for name, masked in self._masked.items():
            self._weights[name].masked_fill_(masked, 0)

    @torch.no_grad()
    def hold_weights_of(self, model: nn.Module) -> None:
        """They are so in another model of the same structure."""
        for name, masked in self._masked.items():
            model.get_parameter(name).masked_fill_(masked, 0)

    def kept(self) -> dict[str, int]:
        """How many weights of each mask are kept."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}

    def left(self, positions: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
        """Shares of the dense model's ``macs`` and ``weights``.

        Args:
            positions: of :func:`.count_positions`; empty where they are not known, and then there
                are no ``macs``.
            sizes: of all weights, at least those in ``positions``.
        """
        kept = self.kept()
        left = dict(weights=sum(kept.get(n, size) for n, size in sizes.items()))
        dense = dict(weights=sum(sizes.values()))
        if positions:
            left['macs'] = sum(n * kept.get(name, sizes[name]) for name, n in positions.items())
            dense['macs'] = sum(n * sizes[name] for name, n in positions.items())
        return {what: left[what] / dense[what] for what in left}

    def _generator(self, name: str, step: int) -> torch.Generator:
        """Of random numbers for a weight at a step: those of a run that was never stopped."""
        place = list(self._weights).index(name)
        return torch.Generator().manual_seed(
            (self._seed * 1_000_003 + step) * len(self._weights) + place
        )
