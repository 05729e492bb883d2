"""In which wrappers of model and optimizer the hooks work that act at optimizer steps."""

from collections.abc import Mapping

import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.utils import digit_version
from mmengine.utils.dl_utils import TORCH_VERSION
from torch import nn
from torch.optim import Optimizer

from ..layers import calls_step_hooks
from ..upstream import compile_method, is_compiled
from .runner_parts import check_replaceable, groups_by_parameter, optimizers_of, wrappers_of


def check_wrapper(runner, *, hook: str) -> None:
    """Refuse runs in which ``hook`` would not see the parameters, the steps or the calls.

    Raises:
        TypeError: a wrapper or an optimizer of such a kind.
        RuntimeError: an optimizer calls no step hooks.
    """
    check_replaceable(runner.model, who=hook)
    if is_compiled(runner):
        raise TypeError(f"{hook} does not know FlexibleRunner's compiled steps; use Runner")
    if runner.cfg.get('compile') and digit_version(TORCH_VERSION) < digit_version('2.2'):
        raise TypeError(
            f'torch {TORCH_VERSION} switches the hooks of optimizers off where torch.compile is '
            f'used, and {hook} acts in them; train without compile'
        )
    for wrapper in wrappers_of(runner):
        fused = any(group.get('fused') for group in wrapper.optimizer.param_groups)
        if fused and isinstance(wrapper, AmpOptimWrapper):
            raise TypeError(
                f'{hook} acts on unscaled gradients, and under AMP a fused optimizer '
                'unscales within its step; use fused=False'
            )
    if not all(map(calls_step_hooks, optimizers_of(runner))):
        raise RuntimeError(
            f'the optimizer calls no step hooks, in which {hook} acts: torch 2.1 switches them '
            'off for the process once torch.compile was used in it; train in a process without it'
        )


def only_optimizer(runner, *, hook: str) -> Optimizer:
    """The one at whose steps ``hook`` acts. Raises TypeError for a run that has several."""
    optimizers = optimizers_of(runner)
    if len(optimizers) != 1:
        raise TypeError(
            f'{hook} acts at the steps of one optimizer, and this run has {len(optimizers)}; '
            'train with one'
        )
    return optimizers[0]


def check_held(runner, parameters: Mapping[str, nn.Parameter], *, hook: str) -> None:
    """Raises TypeError where an optimizer does not hold one of the parameters itself."""
    held = groups_by_parameter(optimizers_of(runner))
    for name, parameter in parameters.items():
        if parameter not in held:
            raise TypeError(
                f'{name} is trainable but not in the optimizer: {hook} needs an optimizer on the '
                'parameters themselves, without Apex master weights or other copies'
            )


def use_compiled_step(runner, compiled: bool) -> None:
    """Where the config says ``compile``, train with the compiled step or set it aside.

    It calls no hook of a layer. It is compiled from nothing each time: after a few shapes of
    one model torch would give up and run it uncompiled.
    """
    if not runner.cfg.get('compile'):
        return
    attributes = vars(runner.model)
    if not compiled:
        attributes.pop('train_step', None)
    elif 'train_step' not in attributes:
        torch.compiler.reset()
        compile_method(runner, 'train_step')
