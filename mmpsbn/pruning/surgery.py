"""Slice a model in place, on the same Parameter objects, with its optimizers.

What was not made here would be trained by nobody: param groups, averages and hooks hold Parameters
by identity. So data is exchanged within them, and everything can be put back.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..upstream import NormBase
from .forward import output_dim
from .plan import PrunePlan, named_tensors
from .repeated_sizes import follow_roi_inputs, repeated_sizes


def is_applied(model: nn.Module, plan: PrunePlan) -> bool:
    """Whether every tensor of the plan already has the shape the plan leaves."""
    tensors = named_tensors(model)
    return all(
        name in tensors and tuple(tensors[name].shape) == plan.shape_after(name)
        for name in plan.kept
    )


def _check_fit(tensors: dict[str, Tensor], plan: PrunePlan) -> None:
    for name, shape in plan.shapes.items():
        if name not in tensors:
            raise ValueError(f'the prune plan names {name}, which the model lacks')
        if tuple(tensors[name].shape) != tuple(shape):
            raise ValueError(
                f'the prune plan expects {name} of shape {tuple(shape)}, the model has '
                f'{tuple(tensors[name].shape)}: use the config that belongs to the checkpoint'
            )


def _check_states(tensors: dict[str, Tensor], plan: PrunePlan, optimizers: list[Optimizer]) -> None:
    for optimizer in optimizers:
        for name in plan.kept:
            for key, value in optimizer.state.get(tensors[name], {}).items():
                if not isinstance(value, Tensor) or value.numel() == 1:  # a count of steps
                    continue
                if value.shape != tensors[name].shape:
                    raise ValueError(
                        f'{type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for '
                        f'{name} of shape {tuple(tensors[name].shape)}: which of it to remove is '
                        'unknown; train with an optimizer whose state has the shapes of its '
                        'parameters, as SGD and AdamW'
                    )


def _slice(tensor: Tensor, dims: dict[int, Tensor]) -> Tensor:
    memory_format = torch.contiguous_format  # the weight of a 1x1 convolution has either: this one
    if tensor.dim() == 4 and not tensor.is_contiguous():
        if tensor.is_contiguous(memory_format=torch.channels_last):
            memory_format = torch.channels_last
    for dim, index in dims.items():
        tensor = tensor.index_select(dim, index)
    return tensor.contiguous(memory_format=memory_format)


def _sync_sizes(module: nn.Module) -> None:
    """Make a layer's size attributes say what its tensors say."""
    weight = getattr(module, 'weight', None)
    dims = weight.dim() if isinstance(weight, Tensor) else 0
    if dims > 2 and hasattr(module, 'out_channels') and hasattr(module, 'groups'):
        outputs, inputs = weight.size(output_dim(module)), weight.size(1 - output_dim(module))
        if module.groups > 1:  # whole groups go, so their number follows the outputs
            module.groups = module.groups * outputs // module.out_channels
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif dims == 2 and hasattr(module, 'out_features'):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, NormBase):
        tensor = module.running_mean if weight is None else weight  # affine=False
        module.num_features = tensor.numel()
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_groups = module.num_groups * weight.numel() // module.num_channels
        module.num_channels = weight.numel()
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.numel()


def _swap_data(tensor: Tensor, index: dict[int, Tensor]) -> Callable[[], None]:
    """Slice a tensor and its gradient in place; returns the way back."""

    def put(data: Tensor, grad: Tensor | None) -> None:
        tensor.grad = None  # a gradient must fit its tensor at all times
        # The gradient accumulator knows the old shape and lives as long as an old loss
        # does; torch drops it where the dtype changes, so pass through another one.
        other = torch.float32 if data.dtype == torch.float16 else torch.float16
        tensor.data = data.new_empty(0, dtype=other)
        tensor.data = data
        tensor.grad = grad

    back = partial(put, tensor.data, tensor.grad)
    grad = None if tensor.grad is None else _slice(tensor.grad, index)
    put(_slice(tensor.data, index), grad)  # both slices are there before anything changes
    return back


def _cut(
    tensor: Tensor, dims: dict[int, tuple[int, ...]], optimizers: list[Optimizer], undo: ExitStack
) -> None:
    """Slice a tensor, its gradient and its optimizer state."""
    index = {dim: torch.tensor(kept, device=tensor.device) for dim, kept in dims.items()}
    # all slices are made before the first is put in place: to run out of memory changes nothing
    sliced = [
        (optimizer.state[tensor], key, value, _slice(value, index))
        for optimizer in optimizers
        if tensor in optimizer.state
        for key, value in optimizer.state[tensor].items()
        if isinstance(value, Tensor) and value.shape == tensor.shape
    ]
    undo.callback(_swap_data(tensor, index))
    for state, key, before, after in sliced:
        undo.callback(state.__setitem__, key, before)
        state[key] = after


def apply_plan(
    model: nn.Module, plan: PrunePlan, optimizers: Iterable[Optimizer] = ()
) -> Callable[[], None]:
    """Remove what the plan does not keep, in place.

    Parameters stay the same objects, so optimizers, EMA pairs and hooks that hold
    them stay valid. Gradients and every tensor of an optimizer's state that has its
    parameter's shape are sliced alike; other state (step counts) is untouched. Size attributes
    of the layers follow, and those of the modules around them that repeat one width
    (:func:`repeated_sizes`).

    Args:
        model: not wrapped in DDP, whose reducer keeps the old shapes.
        plan: its shapes must be the model's.
        optimizers: those that hold the model's parameters.

    Returns:
        A function that puts everything back as it was, bit for bit.

    Raises:
        ValueError: the plan does not fit, or an optimizer's state has another form than its
            parameter; names the first tensor. Nothing changed.
    """
    tensors = named_tensors(model)
    _check_fit(tensors, plan)
    optimizers = list(optimizers)
    _check_states(tensors, plan, optimizers)
    touched_layers = {name.rpartition('.')[0] for name in plan.kept}
    repeated = repeated_sizes(model, plan)

    def sync_sizes() -> None:
        for layer in touched_layers:
            _sync_sizes(model.get_submodule(layer))

    with ExitStack() as undo:  # an error unwinds it: nothing is ever half pruned
        undo.callback(sync_sizes)  # first in, so last out: once the tensors are back
        for name, dims in plan.kept.items():
            _cut(tensors[name], dims, optimizers, undo)
        sync_sizes()
        undo.callback(follow_roi_inputs(model))
        for size in repeated:
            if size.follows is not None:
                module = model.get_submodule(size.module)
                undo.callback(setattr, module, size.attribute, size.before)
                setattr(module, size.attribute, size.follows)
        return undo.pop_all().close
