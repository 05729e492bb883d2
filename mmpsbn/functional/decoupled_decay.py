"""Weight decay beside the update rule and not in its gradient, for any of torch.optim."""

from collections.abc import Mapping

import torch
from torch.optim import Optimizer


def decoupled(base: type[Optimizer]) -> type[Optimizer]:
    """A subclass of an optimizer whose ``weight_decay`` lambda shrinks the weights directly.

        w <- (1 - lambda * eta_t / eta_0) * w, then the base's step with no decay in the gradient

    eta_0 is the group's learning rate before any schedule, so lambda is what one step takes off
    at the full learning rate, whatever its size: 1e-4 means the same for Adam at 1e-3 and for
    Adadelta at 1. That is the WD of Mehta et al. (section 2 and table 1, "adjusted with the
    same scaling schedule as the learning rate schedule") and of Loshchilov and Hutter (arXiv
    1711.05101, algorithms 1 and 2). torch's AdamW multiplies with eta_t itself: its lambda is
    ours / eta_0. Mehta et al. shrink after the step, which differs by lambda times the step.

    Weights without a gradient do not move. eta_0 is ``initial_lr`` of the param group, which
    schedulers set; without one, the learning rate of the first step. A multiplier of a group's
    learning rate leaves its decay as it is, and ``weight_decay`` may have a schedule of its own.

    Args:
        base: steps on dense weights with ``lr`` and ``weight_decay`` in its param groups.

    The class raises:
        ValueError: lambda outside [0, 1), a learning rate of 0, or ``fused=True``, whose
            kernel alone knows whether AMP skips the step.
    """

    class Decoupled(base):
        def __init__(self, params, *args, **kwargs):
            super().__init__(params, *args, **kwargs)
            for group in self.param_groups:
                if not 0 <= group['weight_decay'] < 1:
                    raise ValueError(
                        f'{type(self).__name__} takes weight_decay * w off at each step: it must '
                        f'be in [0, 1), got {group["weight_decay"]!r}'
                    )
                if not group['lr'] > 0:
                    raise ValueError(
                        f'{type(self).__name__} scales weight_decay with lr / initial lr: lr must '
                        f'be > 0, got {group["lr"]!r}; freeze parameters with requires_grad=False'
                    )
                if group.get('fused'):
                    raise ValueError(f'{type(self).__name__} has no fused form: use fused=False')

        def step(self, closure=None):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            decays = [group['weight_decay'] for group in self.param_groups]
            for group in self.param_groups:
                _shrink_(group)
                group['weight_decay'] = 0.0
            try:
                _without_hooks(base.step)(self)
            finally:
                for group, decay in zip(self.param_groups, decays):
                    group['weight_decay'] = decay
            return loss

    Decoupled.__name__ = Decoupled.__qualname__ = f'Decoupled{base.__name__}'
    Decoupled.__doc__ = f'{base.__name__} with decoupled weight decay, see :func:`decoupled`.'
    return Decoupled


@torch.no_grad()
def _shrink_(group: dict) -> None:
    initial_lr = group.setdefault('initial_lr', group['lr'])
    factor = 1 - group['weight_decay'] * (group['lr'] / initial_lr)
    for parameter in group['params']:
        if parameter.grad is not None:
            parameter.mul_(factor)


def _without_hooks(step):
    """torch wraps the step of each class that was ever built, to run an instance's step hooks:
    within our step, which is wrapped, they would run a second time."""
    return step.__wrapped__ if getattr(step, 'hooked', False) else step


# at the top level, for pickle
DecoupledSGD = decoupled(torch.optim.SGD)
DecoupledAdam = decoupled(torch.optim.Adam)  # AMSGrad with amsgrad=True
DecoupledAdagrad = decoupled(torch.optim.Adagrad)
DecoupledAdadelta = decoupled(torch.optim.Adadelta)
DecoupledRMSprop = decoupled(torch.optim.RMSprop)
DecoupledAdamax = decoupled(torch.optim.Adamax)

DECOUPLED_OPTIMIZERS = (
    DecoupledSGD,
    DecoupledAdam,
    DecoupledAdagrad,
    DecoupledAdadelta,
    DecoupledRMSprop,
    DecoupledAdamax,
)

# of torch.optim, whose decay is decoupled where they are told so
_WITH_A_SWITCH = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam)


def is_decoupled(optimizer: Optimizer, group: Mapping) -> bool:
    """Whether the decay of a param group is known to stand beside the update rule: AdamW, this
    package's classes, and those of torch.optim with ``decoupled_weight_decay=True``."""
    kind = type(optimizer)
    return kind in (torch.optim.AdamW, *DECOUPLED_OPTIMIZERS) or (
        kind in _WITH_A_SWITCH and bool(group.get('decoupled_weight_decay'))
    )
