"""What a model costs: parameters and multiply-accumulates."""

import copy
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .forward import ForwardFn, observing
from .plan import PrunePlan


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


def model_cost(model: nn.Module, positions: dict[str, int], plan: PrunePlan | None = None) -> Cost:
    """The cost of a model as it is now, at the input its positions were counted on, or as it
    would be after a plan.

    MACs of a convolution are N * H_out * W_out * C_out * (C_in / groups) * k_h * k_w;
    normalisation, activations and pooling are not counted.
    """
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    if plan is not None:
        shapes |= {name: plan.shape_after(name) for name in plan.kept if name in shapes}
    own = {name for name, _ in model.named_parameters()}  # a shared parameter counts once
    weights = {name: shapes.get(f'{name}.weight'.lstrip('.')) for name in positions}
    weights = {
        name: model.get_submodule(name).weight.shape if shape is None else shape  # computed
        for name, shape in weights.items()
    }
    return Cost(
        params=sum(math.prod(shapes[name]) for name in own),
        macs_of={name: n * math.prod(weights[name]) for name, n in positions.items()},
        inputs_of={name: shape[1] for name, shape in weights.items()},
    )


def measure_latency(
    model: nn.Module, batch: Any, forward_fn: ForwardFn, *, device: str, repeats: int = 10
) -> float:
    """Median seconds of a forward pass in eval mode on a device, of ``repeats`` after two that
    warm up. A model that lives elsewhere is copied there."""
    if next(model.parameters()).device != torch.device(device):
        model = copy.deepcopy(model).to(device)
    batch = batch.to(device) if isinstance(batch, Tensor) else batch
    seconds = []
    with observing(model):
        for _ in range(repeats + 2):
            start = time.perf_counter()
            forward_fn(model, batch)
            if torch.device(device).type == 'cuda':
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])
