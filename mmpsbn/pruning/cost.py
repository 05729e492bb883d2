"""What a model costs: parameters and multiply-accumulates."""

import copy
import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .forward import ForwardFn, is_conv_or_linear, observing, output_dim, tensors_in


@dataclass(frozen=True)
class Cost:
    """Parameters of a model, and MACs of its convolutions, linear layers and attention's
    projections on one input.

    Attributes:
        macs_of: layer name -> MACs, summed over all calls of a shared layer.
        weights_of: layer name -> number of its weights, without the bias.
        inputs_of: layer name -> input channels or features; of attention those of its queries.
    """

    params: int
    macs_of: dict[str, int]
    weights_of: dict[str, int]
    inputs_of: dict[str, int]

    @property
    def macs(self) -> int:
        return sum(self.macs_of.values())


def count_positions(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> dict[str, float]:
    """Name of a conv or linear layer's weight -> how often it is applied, summed over the calls:
    N * H_out * W_out, of a transposed convolution N * H_in * W_in. Pruning channels does not
    change it. Layers compiled by TorchScript are not counted.

    Of ``nn.MultiheadAttention`` these are the tokens that a projection sees; ``in_proj_weight``
    is three projections, so that it gets the mean of queries, keys and values.
    """
    positions: dict[str, float] = {}

    def count(name: str):

        def add(module, args, kwargs, output) -> None:
            for weight, calls in _applications(module, args, kwargs, output).items():
                weight = f'{name}.{weight}'.lstrip('.')
                positions[weight] = positions.get(weight, 0) + calls

        return add

    with ExitStack() as hooks, observing(model):
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                continue
            if is_conv_or_linear(module) or _is_attention(module):
                hook = module.register_forward_hook(count(name), with_kwargs=True)
                hooks.enter_context(hook)
        forward_fn(model, batch)
    return positions


def _is_attention(module: nn.Module) -> bool:
    """Whether its projections are computed out of sight of their own modules: not so in
    subclasses that compute them in another way."""
    forward = nn.MultiheadAttention.forward
    return getattr(type(module), 'forward', None) is forward


def _applications(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> dict[str, float]:
    """Weight of the module -> how often this call applies it."""
    if _is_attention(module):
        call = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        inputs = (call[part] for part in ('query', 'key', 'value'))
        q, k, v = (tokens.numel() // tokens.size(-1) for tokens in inputs)
        projections = (
            dict(q_proj_weight=q, k_proj_weight=k, v_proj_weight=v)
            if module.in_proj_weight is None
            else dict(in_proj_weight=(q + k + v) / 3)
        )
        return projections | {'out_proj.weight': q}  # whose own forward is never called
    # a transposed convolution multiplies what it reads, any other what it puts out
    applied_to = [next(tensors_in((args, kwargs)))] if output_dim(module) else tensors_in(output)
    # by numbers of elements: whatever the layout, all but the channels is positions
    return {'weight': sum(map(Tensor.numel, applied_to)) // module.weight.size(0)}


def model_cost(
    model: nn.Module,
    positions: Mapping[str, float],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Cost:
    """The cost of a model at the input its positions were counted on: as it is now, or with
    other ``shapes`` of some parameters, those before or after a :class:`PrunePlan`.

    MACs of a convolution are N * H_out * W_out * C_out * (C_in / groups) * k_h * k_w;
    normalisation, activations, pooling and the products of queries, keys and values with one
    another are not counted.
    """
    shapes = {
        name: (shapes or {}).get(name, p.shape)
        for name, p in model.named_parameters(remove_duplicate=False)
    }
    own = {name for name, _ in model.named_parameters()}  # a shared parameter counts once
    macs_of: dict[str, int] = {}
    weights_of: dict[str, int] = {}
    inputs_of: dict[str, int] = {}
    for name, n in positions.items():
        layer, _, attribute = name.rpartition('.')
        module = model.get_submodule(layer)
        weight = shapes[name] if name in shapes else _computed_shape(module, attribute)
        macs_of[layer] = macs_of.get(layer, 0) + round(n * math.prod(weight))
        weights_of[layer] = weights_of.get(layer, 0) + math.prod(weight)
        inputs_of.setdefault(layer, weight[1 - output_dim(module)])
    return Cost(sum(math.prod(shapes[name]) for name in own), macs_of, weights_of, inputs_of)


def _computed_shape(module: nn.Module, name: str) -> tuple[int, ...]:
    with observing(module):  # a spectral norm goes on with its estimate in training mode
        return getattr(module, name).shape


def measure_latency(model: nn.Module, batch: Any, forward_fn: ForwardFn, *, device: str) -> float:
    """:func:`median_seconds` of a forward pass in eval mode on a device. A model that lives
    elsewhere is copied there."""
    there = torch.empty(0, device=device).device  # 'cuda' is the present one, 'cuda:0' say
    if next(model.parameters()).device != there:
        model = copy.deepcopy(model).to(device)
    batch = batch.to(device) if isinstance(batch, Tensor) else batch

    def forward() -> None:
        forward_fn(model, batch)
        if there.type == 'cuda':  # kernels are only queued by then
            torch.cuda.synchronize(device)

    with observing(model):
        return median_seconds(forward)


def median_seconds(
    run: Callable[[], object],
    *,
    repeats: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Of ``repeats`` runs after two that warm up; ``clock`` gives seconds."""
    seconds = []
    for _ in range(repeats + 2):
        start = clock()
        run()
        seconds.append(clock() - start)
    return statistics.median(seconds[2:])
