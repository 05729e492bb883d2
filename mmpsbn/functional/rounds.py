"""What a round of training changes beside the learning rate: weights at other places, what training
found without where it found it; and an optimizer that forgets."""

import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def shuffle_(tensor: Tensor, *, generator: torch.Generator) -> None:
    """w_i <- w_pi(i), pi a uniformly drawn permutation of all elements, in place.

    The distribution of the values stays, their relation to each other and to the loss goes
    (psBN paper section 3.6, "Filter selectivity").

    Args:
        tensor: any shape, on any device.
        generator: on the CPU, so that the permutation does not depend on the device.
    """
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.copy_(tensor.flatten()[order].view_as(tensor))


def reset_state_(optimizer: Optimizer) -> None:
    """Momenta, second moments and step counts as at the first step; param groups stay.

    The optimizers of torch.optim make their state at a parameter's first step, but for
    Adagrad, whose accumulator is there from the start.
    """
    if not isinstance(optimizer, torch.optim.Adagrad):
        optimizer.state.clear()
        return
    for group in optimizer.param_groups:
        for parameter in group['params']:
            state = optimizer.state[parameter]
            state['step'].zero_()
            state['sum'].fill_(group['initial_accumulator_value'])
