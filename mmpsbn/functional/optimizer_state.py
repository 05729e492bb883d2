"""An optimizer that forgets."""

import torch
from torch.optim import Optimizer


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
