"""In which wrappers of model and optimizer DemPHook works."""

import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.utils import digit_version
from mmengine.utils.dl_utils import TORCH_VERSION

from ...upstream import compile_method, is_compiled
from ..runner_parts import check_replaceable, wrappers_of


def check_wrapper(runner) -> None:
    """Raises TypeError where parameters, steps or calls are not what the hooks see."""
    check_replaceable(runner.model)
    if is_compiled(runner):
        raise TypeError("DemPHook does not know FlexibleRunner's compiled steps; use Runner")
    if runner.cfg.get('compile') and digit_version(TORCH_VERSION) < digit_version('2.2'):
        raise TypeError(
            f'torch {TORCH_VERSION} switches the hooks of optimizers off where torch.compile is '
            'used, and DemPHook acts in them; train without compile'
        )
    for wrapper in wrappers_of(runner):
        fused = any(group.get('fused') for group in wrapper.optimizer.param_groups)
        if fused and isinstance(wrapper, AmpOptimWrapper):
            raise TypeError(
                'DemPHook acts on unscaled gradients, and under AMP a fused optimizer '
                'unscales within its step; use fused=False'
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
