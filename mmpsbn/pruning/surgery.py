"""Slice a model in place, on the same Parameter objects, with its optimizers."""
from functools import partial
from typing import Callable, Dict, Iterable, List, Optional

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from .plan import PrunePlan


def _tensors(model: nn.Module) -> Dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def is_applied(model: nn.Module, plan: PrunePlan) -> bool:
    """Whether every tensor of the plan already has the shape the plan leaves."""
    tensors = _tensors(model)
    return all(name in tensors and tuple(tensors[name].shape) == plan.shape_after(name)
               for name in plan.kept)


def _check_fit(tensors: Dict[str, Tensor], plan: PrunePlan) -> None:
    for name, shape in plan.shapes.items():
        if name not in tensors:
            raise ValueError(f'the prune plan names {name}, which the model lacks')
        if tuple(tensors[name].shape) != tuple(shape):
            raise ValueError(f'the prune plan expects {name} of shape {tuple(shape)}, '
                             f'the model has {tuple(tensors[name].shape)}')


def _slice(tensor: Tensor, dims: Dict[int, Tensor]) -> Tensor:
    memory_format = torch.channels_last if (
        tensor.dim() == 4 and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    ) else torch.contiguous_format
    for dim, index in dims.items():
        tensor = tensor.index_select(dim, index)
    return tensor.contiguous(memory_format=memory_format)


def _sync_sizes(module: nn.Module) -> None:
    """Make a layer's size attributes say what its weight says."""
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = module.weight.numel()


def _swap_data(tensor: Tensor, index: Dict[int, Tensor]) -> Callable[[], None]:
    """Slice a tensor and its gradient in place; returns the way back."""

    def put(data: Tensor, grad: Optional[Tensor]) -> None:
        tensor.grad = None  # a gradient must fit its tensor at all times
        tensor.data = data
        tensor.grad = grad

    back = partial(put, tensor.data, tensor.grad)
    grad = None if tensor.grad is None else _slice(tensor.grad, index)
    put(_slice(tensor.data, index), grad)
    return back


def apply_plan(model: nn.Module, plan: PrunePlan,
               optimizers: Iterable[Optimizer] = ()) -> Callable[[], None]:
    """Remove what the plan does not keep, in place.

    Parameters stay the same objects, so optimizers, EMA pairs and hooks that hold
    them stay valid. Gradients and every tensor of an optimizer's state that has its
    parameter's shape are sliced alike; other state (step counts) is untouched.

    Args:
        model: not wrapped in DDP, whose reducer keeps the old shapes.
        plan: its shapes must be the model's.
        optimizers: those that hold the model's parameters.

    Returns:
        A function that puts everything back as it was, bit for bit.

    Raises:
        ValueError: the plan does not fit; names the first tensor. Nothing changed.
    """
    tensors = _tensors(model)
    _check_fit(tensors, plan)
    undo: List[Callable[[], None]] = []
    touched_layers = {name.rpartition('.')[0] for name in plan.kept}
    for name, dims in plan.kept.items():
        tensor = tensors[name]
        shape = tensor.shape
        index = {dim: torch.tensor(kept, device=tensor.device)
                 for dim, kept in dims.items()}
        undo.append(_swap_data(tensor, index))
        for optimizer in optimizers:
            state = optimizer.state.get(tensor, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == shape:
                    undo.append(partial(state.__setitem__, key, value))
                    state[key] = _slice(value, index)
    for layer in touched_layers:
        _sync_sizes(model.get_submodule(layer))

    def restore() -> None:
        for step in reversed(undo):
            step()
        for layer in touched_layers:
            _sync_sizes(model.get_submodule(layer))

    return restore
