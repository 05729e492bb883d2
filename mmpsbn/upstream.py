"""Names of torch and MMEngine that are private there and that this package cannot do without.

All other modules take them from here; tests/test_upstream.py fails with the name where a version of
torch or MMEngine has dropped it. Nothing of MMEngine is imported: its runners, wrappers and modules
are arguments.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase
from torch.utils._python_dispatch import TorchDispatchMode

# The base classes: MMEngine, mmcv and timm derive layers from them, which a list of torch's public
# classes would miss. NormBase is that of BatchNorm and InstanceNorm.
__all__ = ['BatchNormBase', 'ConvBase', 'DropoutBase', 'InstanceNormBase', 'NormBase']
# Sees every operation that runs, with the tensors it has in fact been given.
__all__ += ['TorchDispatchMode']

# Arithmetic on many tensors in a few kernels: of each step on each psBN bias.
foreach_add = torch._foreach_add
foreach_sub = torch._foreach_sub
foreach_copy_ = torch._foreach_copy_

# nn.SyncBatchNorm.forward, which psSyncBN borrows, calls it.
check_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels


def forward_hooks_of(module: nn.Module) -> tuple[dict, dict]:
    """What is called before its forward pass and after it, by handle: torch can add and remove
    hooks, and not list them."""
    return module._forward_pre_hooks, module._forward_hooks


def schema_of(operation):
    """Name, arguments and what is written or viewed, of an operation that a dispatch mode sees."""
    return operation._schema


def base_of(tensor: Tensor) -> Tensor | None:
    """What the tensor is a view of."""
    return tensor._base


def check_before_loading(model: nn.Module, hook: Callable) -> None:
    """Call ``hook(model, state_dict, prefix, ...)`` before a state dict is loaded. torch 2.5 has a
    public name for it."""
    model._register_load_state_dict_pre_hook(hook, with_module=True)


def forward_pre_hooks(module: nn.Module) -> list[Callable]:
    """What is called before each forward pass of the module."""
    return list(module._forward_pre_hooks.values())


def is_initialising(module: nn.Module) -> bool:
    """Whether the outermost ``init_weights`` of MMEngine's BaseModule is at work on the module."""
    return hasattr(module, '_params_init_info')


def resumes(runner) -> bool:
    """Whether the run goes on with another one, its optimizer and its iterations too."""
    return bool(runner._resume)


def load_from(runner) -> str | None:
    """The checkpoint that a run begins with, or goes on with."""
    return runner._load_from


def trains(runner) -> bool:
    """Whether ``train()`` has been called: the public ``train_loop`` would build the loop."""
    return not isinstance(runner._train_loop, (dict, type(None)))


def accumulative_counts(optim_wrapper) -> int:
    """Iterations to an optimizer step."""
    return optim_wrapper._accumulative_counts


def is_compiled(flexible_runner) -> bool:
    """Whether a FlexibleRunner compiles its steps; a Runner says that in its config."""
    return bool(getattr(flexible_runner, '_compile', False))


def compile_method(runner, name: str) -> None:
    """Compile a method of the runner's model with the options of its config."""
    runner._maybe_compile(name)


def wrap_model(strategy, model: nn.Module) -> nn.Module:
    """What a FlexibleRunner's strategy puts around a model that is built."""
    return strategy._wrap_model(model)
