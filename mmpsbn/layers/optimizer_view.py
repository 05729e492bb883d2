"""What an optimizer sees of a psBN bias: beta = b - alpha, for the length of its step.

The parameter is b. torch's global step hooks put beta in its place before a step and b after it:
the gradients of b and beta are equal, so every optimizer does to beta what it would do to the bias
of ``BN(x) + alpha``, and weight decay pulls b to alpha. With beta' what the step makes of beta,

    b' = b + (beta' - beta),

so that a step which does not move beta leaves b as it was, bit for bit. A closure sees b. Hooks
that are registered with one optimizer run within and see beta. A step that raises never ends: b is
put back when a layer computes or is saved, loaded or copied, or another step begins.

A parameter that is meant carries its alpha as an attribute, which stays with it where a layer hands
it over, as conversions to SyncBatchNorm do. (A dictionary with weak keys would do as much, but
torch refuses to swap tensors that somebody refers to weakly.)
"""

import copy
import functools
import gc
import inspect
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..upstream import foreach_add, foreach_copy_, foreach_sub

_ALPHA = '_psbn_alpha'
_TORCH_STEP = sys.modules[Optimizer.__module__].__file__  # where the wrapper of every step stands

_layers: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # the living psBN layers
_handles: list = []  # of the global hooks; none in a process without psBN
_warned = False  # whether it was looked into, at the first step that shifted nothing


class _Thread(threading.local):
    """The steps that have begun and not ended, a wrapper's before those of what it wraps."""

    def __init__(self):
        self.steps: list[_Step] = []


_thread = _Thread()


def alpha_of(parameter: Tensor | None) -> float | None:
    """The alpha of a psBN layer's bias, also where another layer has taken it over; else None."""
    return getattr(parameter, _ALPHA, None)


def set_alpha(parameter: Tensor, alpha: float | None) -> None:
    """From now on optimizers see ``parameter - alpha``; with None the parameter itself."""
    if alpha is not None:
        setattr(parameter, _ALPHA, alpha)
    elif hasattr(parameter, _ALPHA):
        delattr(parameter, _ALPHA)


def watch(layer: nn.Module) -> None:
    """Have the bias of a psBN layer shifted, also a parameter that takes its place later on.

    Args:
        layer: its method ``mark_bias()`` gives the present bias its alpha.
    """
    _layers.add(layer)
    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(_before_step))
        _handles.append(register_optimizer_step_post_hook(_after_step))


def unwatch(layer: nn.Module) -> None:
    """Of a layer that is no psBN any more."""
    _layers.discard(layer)


def calls_step_hooks(optimizer: Optimizer) -> bool:
    """Whether ``step()`` of such an optimizer calls its hooks. No parameter is moved.

    torch 2.1 takes that away from its optimizers where torch.compile is used, and they keep
    the mark of those that have it.
    """
    called: list[bool] = []
    probe = copy.copy(optimizer)  # without the hooks
    probe.param_groups = []
    probe.register_step_pre_hook(lambda *_: called.append(True))
    with suppress(Exception):  # of optimizers that need a closure, or parameters
        probe.step()
    return bool(called)


def restore_biases() -> None:
    """Put b back where a step of this thread has raised, and so has never ended."""
    if not _thread.steps:
        return
    running = {id(frame) for frame in _frames()}
    for step in list(_thread.steps):
        if id(step.frame) not in running:
            _thread.steps.remove(step)
            step.end()


def _frames() -> Iterator[FrameType]:
    """What runs now in this thread, from here outwards."""
    frame = inspect.currentframe().f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


class _Step:
    """One call of ``step``, and the biases it sees as betas.

    Attributes:
        frame: of the call, by torch's wrapper around ``step``: once it has left the stack, the step
            is over, whether it ended or raised.
    """

    def __init__(self, optimizer: Optimizer, biases: list[nn.Parameter]):
        self.optimizer = optimizer
        self.frame = next((f for f in _frames() if f.f_code.co_filename == _TORCH_STEP), None)
        self.biases = biases
        # of a DTensor what this rank holds
        self._tensors = [p.to_local() if hasattr(p, 'to_local') else p for p in biases]
        self._b = [tensor.clone() for tensor in self._tensors]
        alphas = [alpha_of(p) for p in biases]
        self._beta = foreach_sub(self._b, alphas) if biases else []
        self._shift(self._b, self._beta)

    def _shift(self, now: list[Tensor], then: list[Tensor]) -> None:
        if self.biases:
            _move_(self._tensors, now, then)
            self._guard = register_module_forward_pre_hook(lambda *_: restore_biases())

    def end(self) -> None:
        """b again, moved by as much as the step has moved beta."""
        if self.biases:
            self._guard.remove()
            _move_(self._tensors, self._beta, self._b)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """b within; afterwards beta again, moved by as much as b was within."""
        with torch.no_grad():
            beta = [tensor.clone() for tensor in self._tensors]
            self.end()
            b = [tensor.clone() for tensor in self._tensors]
        try:
            yield
        finally:
            self._shift(b, beta)


@torch.no_grad()
def _move_(tensors: list[Tensor], now: list[Tensor], then: list[Tensor]) -> None:
    """``then`` plus what the tensors differ from ``now``, in place."""
    moved = foreach_sub(tensors, now)
    foreach_copy_(tensors, foreach_add(then, moved))


@torch.no_grad()
def _before_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    restore_biases()
    for layer in _layers:
        layer.mark_bias()
    # A wrapper's step, or that of a subclass, calls an inner one: what is beta already stays so.
    shifted = {id(p) for step in _thread.steps for p in step.biases}
    biases = {id(p): p for p in _biases_in(optimizer) if id(p) not in shifted}
    _thread.steps.append(_Step(optimizer, list(biases.values())))
    if not (biases or shifted):
        _warn_if_nobody_shifts(optimizer)
    return _with_closure_that_sees_b(args, kwargs)


def _after_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    restore_biases()  # of inner steps that have raised
    for step in reversed(_thread.steps):
        if step.optimizer is optimizer:
            _thread.steps.remove(step)
            step.end()
            return


def _biases_in(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """The parameters that an optimizer must see as betas."""
    for group in getattr(optimizer, 'param_groups', ()):  # one that was never built has none
        yield from (p for p in group['params'] if alpha_of(p) is not None)


def _with_closure_that_sees_b(args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """The arguments of ``step``, the optimizer first; None where there is no closure."""
    if kwargs.get('closure') is not None:
        return args, kwargs | dict(closure=_seeing_b(kwargs['closure']))
    if len(args) > 1 and callable(args[1]):
        return (args[0], _seeing_b(args[1]), *args[2:]), kwargs
    return None


def _seeing_b(closure: Callable) -> Callable:

    @functools.wraps(closure)
    def wrapper(*args, **kwargs):
        steps, _thread.steps = _thread.steps, []
        try:
            with ExitStack() as interrupted:
                for step in steps:
                    interrupted.enter_context(step.interrupted())
                return closure(*args, **kwargs)
        finally:
            _thread.steps = steps

    return wrapper


def _warn_if_nobody_shifts(optimizer: Optimizer) -> None:
    """Once in a process: psBN trains, and no optimizer holds its biases, this one included."""
    global _warned
    trained = [layer for layer in _layers if layer.training and layer.trains_bias()]
    if _warned or not trained or not optimizer.param_groups:
        return
    optimizers = (o for o in gc.get_objects() if issubclass(type(o), Optimizer))
    _warned = True
    if not any(True for o in optimizers for _ in _biases_in(o)):
        warnings.warn(
            f'{len(trained)} psBN layers are being trained and no optimizer holds their biases '
            'themselves, so that nothing pulls these to alpha: an optimizer with copies of its own '
            '(flat parameters, master weights) makes psBN a BatchNorm',
            stacklevel=2,
        )
