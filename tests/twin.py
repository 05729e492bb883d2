"""What a pruned model must equal while it trains on: a dense twin with the channels masked."""

import torch
from torch import nn
from torch.optim import Optimizer

from mmpsbn.pruning import PrunePlan


def kept_slice(tensor, plan: PrunePlan, name: str):
    for dim, index in plan.kept.get(name, {}).items():
        tensor = tensor.index_select(dim, torch.tensor(index))
    return tensor


def _keep_mask(tensor, dims):
    mask = torch.ones_like(tensor)
    for dim, index in dims.items():
        gone = [i for i in range(tensor.size(dim)) if i not in index]
        mask.index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0)
    return mask


def _same_shaped(optimizer: Optimizer, parameter) -> dict:
    state = optimizer.state.get(parameter, {})
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    }


@torch.no_grad()
def mask_(model: nn.Module, plan: PrunePlan, optimizers) -> None:
    """Zero what the plan removes, in weights, gradients and optimizer state, and block its
    gradients from now on."""
    for name, parameter in model.named_parameters():
        if name not in plan.kept:
            continue
        mask = _keep_mask(parameter, plan.kept[name])
        parameter.mul_(mask)
        if parameter.grad is not None:
            parameter.grad.mul_(mask)
        for optimizer in optimizers:
            for value in _same_shaped(optimizer, parameter).values():
                value.mul_(mask)
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, mask=mask: grad * mask)


def assert_equals_twin(model: nn.Module, twin: nn.Module, plan: PrunePlan, **tolerance) -> None:
    """Every parameter, gradient and buffer is the twin's, of which the plan keeps its part."""
    theirs = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for name, ours in [*model.named_parameters(), *model.named_buffers()]:
        expected = kept_slice(theirs[name], plan, name)
        torch.testing.assert_close(ours, expected, msg=lambda m, n=name: f'{n}: {m}', **tolerance)
        assert (ours.grad is None) == (theirs[name].grad is None), name
        if ours.grad is not None:
            expected = kept_slice(theirs[name].grad, plan, name)
            torch.testing.assert_close(ours.grad, expected, **tolerance)


def assert_state_equals_twin(
    optimizer: Optimizer,
    twin_optimizer: Optimizer,
    model: nn.Module,
    twin: nn.Module,
    plan: PrunePlan,
    **tolerance,
) -> None:
    """The optimizer's state is the twin's, sliced where it has its parameter's shape."""
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        twin_state = twin_optimizer.state.get(theirs[name], {})
        assert state.keys() == twin_state.keys(), name
        sliced = _same_shaped(twin_optimizer, theirs[name])
        for key, value in twin_state.items():
            if key in sliced:
                value = kept_slice(value, plan, name)
                assert state[key].shape == parameter.shape, (name, key)
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(state[key], value, **tolerance)
            else:
                assert state[key] == value, (name, key)
