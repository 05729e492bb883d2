"""A model's forward pass, whatever the model takes and returns, leaving no trace in it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

# Or, of mps, with one that torch does not fork.
_WITHOUT_OWN_RNG = ('cpu', 'meta', 'mps')

ForwardFn = Callable[[nn.Module, Any], Any]


def call_with(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``; a tuple is passed as arguments, a dict as keyword arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples and dicts of any nesting."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def is_conv_or_linear(module: nn.Module) -> bool:
    """Whether a module is a convolution or linear layer of any kind, mmcv's deformable ones
    among them, and not a block that holds one."""
    sized = hasattr(module, 'out_channels') or hasattr(module, 'out_features')
    if is_parametrized(module, 'weight'):  # to read it is to compute it, which may change buffers
        return sized
    weight = getattr(module, 'weight', None)
    return sized and isinstance(weight, Tensor) and (is_lazy(weight) or weight.dim() > 1)


def first_argument(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """What a layer reads, passed by position or by name."""
    if args:
        return args[0]
    # its first parameter's name is not the same in all layers: input, x, query
    return kwargs[next(iter(inspect.signature(module.forward).parameters))]


def output_dim(layer: nn.Module) -> int:
    """The dimension of the output channels in the weight of a convolution or linear layer."""
    return int(getattr(layer, 'transposed', False))


def input_channel_dim(weight: Tensor) -> int:
    """The dimension of the channels in what a layer with this weight reads, from the end."""
    # a convolution's weight has two dimensions of channels, its input one
    return -max(weight.dim() - 1, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within, and each module's own mode again afterwards.

    The flags are set directly: ``eval()`` has side effects in mmdet's backbones.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False  # a plain attribute: no hook of a subclass runs
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def frozen_rng(model: nn.Module) -> Iterator[None]:
    """Random numbers from one seed within, and as if none had been drawn afterwards."""
    devices = {p.device for p in model.parameters() if p.device.type not in _WITHOUT_OWN_RNG}
    with ExitStack() as forked, torch.random.fork_rng([]):
        for kind in {device.type for device in devices}:
            of_kind = [device for device in devices if device.type == kind]
            forked.enter_context(torch.random.fork_rng(of_kind, device_type=kind))
        torch.manual_seed(0)
        yield


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and random numbers of its own: a forward pass within leaves no
    trace."""
    with torch.no_grad(), evaluating(model), frozen_rng(model):
        yield
