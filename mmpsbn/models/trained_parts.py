"""Which parameters of a model are trained, the others staying as they were drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..functional.checks import is_count
from ..functional.frozen import random_weight_mask
from ..layers import NORM_LAYERS
from ..upstream import ConvBase


@dataclass(frozen=True)
class TrainedParts:
    """Train some parameters, or all but some (Frankle et al. sections 3 and 4, figure 1).

    A part is ``'norm'``, gamma and beta of every normalisation layer whatever its name, or
    else a piece of parameter names, as in MMEngine's ``custom_keys``: ``'head.fc'``.

    Args:
        train: parts that are trained.
        freeze: parts that are not, instead of ``train``.
        per_channel: besides ``train``, so many random weights of each output channel of every
            convolution, >= 1.

    Raises:
        ValueError: an argument out of range, neither or both of ``train`` and ``freeze``.
    """

    train: tuple[str, ...] | None
    freeze: tuple[str, ...] | None
    per_channel: int | None

    def __post_init__(self):
        for name in ('train', 'freeze'):
            parts = getattr(self, name)
            if parts is None:
                continue
            if not isinstance(parts, (list, tuple)) or not all(
                isinstance(part, str) and part for part in parts
            ):
                raise ValueError(f"{name} must be a list like ['norm', 'head.fc'], got {parts!r}")
            object.__setattr__(self, name, tuple(parts))
        if (self.train is None) == (self.freeze is None):
            raise ValueError(
                f'give one of train and freeze, got train={self.train}, freeze={self.freeze}'
            )
        if self.per_channel is not None and not is_count(self.per_channel):
            raise ValueError(f'per_channel must be None or an int >= 1, got {self.per_channel!r}')
        if self.per_channel is not None and self.freeze is not None:
            raise ValueError('per_channel goes with train; with freeze the others move as it is')

    def frozen(self, model: nn.Module, seed: int) -> dict[str, Tensor | None]:
        """Parameter that is not trained as a whole -> which of its weights move (True), shape
        of the parameter; None where none does.

        Args:
            seed: of the random weights.

        Raises:
            ValueError: a part that no parameter belongs to; everything would be trained, or
                nothing.
        """
        names = [name for name, _ in model.named_parameters()]
        parts = self.train if self.freeze is None else self.freeze
        chosen = set().union(*(self._of_part(model, part) for part in parts))
        frozen: dict[str, Tensor | None] = {
            name: None for name in names if (name in chosen) == (self.train is None)
        }
        if self.per_channel is not None:
            frozen.update(self._masks(model, frozen, seed))
        masks = [mask for mask in frozen.values() if mask is not None]
        if not frozen or (len(frozen) == len(names) and not masks):
            raise ValueError(
                f'{self} trains {"nothing" if frozen else "everything"} of {type(model).__name__}'
            )
        return frozen

    @staticmethod
    def _of_part(model: nn.Module, part: str) -> set[str]:
        """Names of its parameters."""
        if part == 'norm':
            norms = {n for n, module in model.named_modules() if isinstance(module, NORM_LAYERS)}
            found = {n for n, _ in model.named_parameters() if n.rpartition('.')[0] in norms}
        else:
            found = {name for name, _ in model.named_parameters() if part in name}
        if not found:
            raise ValueError(
                f'no parameter of {type(model).__name__} belongs to the part {part!r}; it has '
                f'{[name for name, _ in model.named_parameters()][:3]} and so on'
            )
        return found

    def _masks(self, model: nn.Module, frozen: dict, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        masks = {}
        for name, module in model.named_modules():
            key = f'{name}.weight' if name else 'weight'
            if isinstance(module, ConvBase) and key in frozen:
                masks[key] = random_weight_mask(
                    module.weight,
                    per_channel=self.per_channel,
                    channel_dim=1 if module.transposed else 0,
                    generator=generator,
                )
        return masks
