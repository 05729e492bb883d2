"""The model inside a runner: bare, traceable, with its optimizers and averages."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

# Side of the crop that traces and probes run on: large enough for seven levels of
# stride, small enough for a CPU.
_MAX_SIDE = 256


def bare_model(runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def forward_tensors(model: nn.Module, inputs: Tensor) -> Any:
    """An OpenMMLab model's raw outputs, before losses and post-processing."""
    return model(inputs, mode='tensor')


def example_inputs(model: nn.Module, data_batch: dict, num_samples: int) -> Tensor:
    """The first samples of a batch as the model sees them, at most 256 pixels a side.

    Returns:
        Shape (num_samples or fewer, C, H, W), normalised, on the model's device.
    """
    data = dict(inputs=data_batch['inputs'][:num_samples])
    inputs = model.data_preprocessor(data, training=False)['inputs']
    return inputs[..., :_MAX_SIDE, :_MAX_SIDE]


def optimizers_of(runner) -> list[Optimizer]:
    """The built optimizers; empty in a run that only tests."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return [w.optimizer for w in wrapper.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def averaged_models_of(runner) -> list[nn.Module]:
    """The models that EMA hooks keep; they must have the trained model's structure."""
    return [
        hook.ema_model.module
        for hook in runner.hooks
        if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')
    ]


def check_wrapper(runner) -> None:
    """Raises TypeError for wrappers that shard or copy parameters."""
    model = runner.model
    if is_model_wrapper(model) and not isinstance(model, DistributedDataParallel):
        raise TypeError(
            f'DemPHook prunes plain and DDP models, got '
            f'{type(model).__name__}, which holds its parameters in '
            'another form; train with MMDistributedDataParallel'
        )


@contextmanager
def unwrapped_model(runner) -> Iterator[nn.Module]:
    """The bare model, free to change shape; DDP is wrapped around it anew on exit.

    The old DDP wrapper must be gone before a parameter changes shape: its reducer
    holds gradient accumulators that know the old one.
    """
    if not is_model_wrapper(runner.model):
        yield runner.model
        return
    model = runner.model.module
    runner.model = model
    gc.collect()
    try:
        yield model
    finally:
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), model)
