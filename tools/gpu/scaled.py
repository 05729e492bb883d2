"""fp16 with a GradScaler, and the same steps without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from mmpsbn.engine import DemPHook

from .checks import Setup, require
from .runs import SGD, classifier, demp, furthest, pictures, plan_of, tensors_of, train

_FIRST = 2.0**20  # overflows, and after few halvings does not


@OPTIM_WRAPPERS.register_module(force=True)
class NotedAmp(AmpOptimWrapper):
    """
    Attributes:
        noted: the scale of each iteration, and whether its step was real.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noted: list[tuple[float, bool]] = []

    def step(self, **kwargs) -> None:
        scale = self.loss_scaler.get_scale()
        super().step(**kwargs)
        self.noted.append((scale, self.loss_scaler.get_scale() >= scale))


@OPTIM_WRAPPERS.register_module(force=True)
class ReplayedAmp(OptimWrapper):
    """fp16 without a GradScaler: scales and steps are those that another run noted."""

    def __init__(self, *, noted: list[tuple[float, bool]], device: str, **kwargs):
        super().__init__(**kwargs)
        self._noted, self._device = iter(noted), device

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self._device, torch.float16):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        self._scale, self._real = next(self._noted)
        super().backward(loss * self._scale, **kwargs)

    def step(self, **kwargs) -> None:
        if self._real:
            for group in self.optimizer.param_groups:
                for p in group['params']:
                    p.grad /= self._scale  # a power of two
            super().step(**kwargs)


def compare_scaled(setup: Setup, *, steps: int) -> str:
    """Train in fp16 with a GradScaler, and again with the steps it took alone.

    Raises:
        AssertionError: the weights are not the same bit for bit; DemPHook saw other steps; no step
            was left out, or none was real.
    """
    how = dict(device=setup.device, seed=setup.seed, steps=steps, deterministic=True)
    build = partial(classifier, setup.seed, width=16, dtype=torch.float32)
    data = pictures(setup.seed, torch.float32)

    def trained(**wrapper):
        wrapper |= dict(optimizer=dict(SGD))
        folder = setup.folder / 'runs'
        return train(folder, build(), [demp()], data=data, optim_wrapper=wrapper, **how)

    ours = trained(type='NotedAmp', loss_scale=dict(init_scale=_FIRST))
    noted = ours.optim_wrapper.noted
    real = sum(is_real for _, is_real in noted)
    require(0 < real < steps, f'{real} of {steps} steps were real: nothing to compare')
    require(bool(plan_of(ours)), 'no channel went')
    seen = next(h for h in ours.hooks if isinstance(h, DemPHook))._perturbation.steps
    require(seen == real, f'DemPHook acted on {seen} steps, and {real} were real')
    theirs = trained(type='ReplayedAmp', noted=noted, device=setup.device)
    worst, name = furthest(tensors_of(ours), tensors_of(theirs))
    require(worst == 0, f'{name} differs by {worst:.1e} from the run of the real steps')
    return f'{real} of {steps} steps were real; without the others, the same bit for bit'
