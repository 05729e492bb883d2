"""What a model costs: parameters and multiply-accumulates."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .forward import ForwardFn, observing


@dataclass(frozen=True)
class Cost:
    """Parameters of a model, and MACs of its conv and linear layers on one input.

    Attributes:
        macs_of: layer name -> MACs, summed over all calls of a shared layer.
        inputs_of: layer name -> input channels or features.
    """

    params: int
    macs_of: dict[str, int]
    inputs_of: dict[str, int]

    @property
    def macs(self) -> int:
        return sum(self.macs_of.values())


def count_positions(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> dict[str, int]:
    """Layer name -> how often each of its filters is applied: N * H_out * W_out, summed
    over the calls. Pruning channels does not change it."""
    positions: dict[str, int] = {}

    def count(name: str):

        def add(module, args, output) -> None:
            calls = output.numel() // module.weight.size(0)
            positions[name] = positions.get(name, 0) + calls

        return add

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    ]
    try:
        with observing(model):
            forward_fn(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return positions


def model_cost(model: nn.Module, positions: dict[str, int]) -> Cost:
    """The cost of a model as it is now, at the input its positions were counted on.

    MACs of a convolution are N * H_out * W_out * C_out * (C_in / groups) * k_h * k_w;
    normalisation, activations and pooling are not counted.
    """
    weights = {name: model.get_submodule(name).weight for name in positions}
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs_of={name: n * weights[name].numel() for name, n in positions.items()},
        inputs_of={name: weight.size(1) for name, weight in weights.items()},
    )
