"""The model inside a runner: bare, traceable, with its optimizers and averages."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.structures import InstanceData
from mmengine.utils import digit_version
from mmengine.utils.dl_utils import TORCH_VERSION
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..pruning import ChannelGraph, trace_channel_graph

# Side of the crop that traces and probes run on: large enough for seven levels of
# stride, small enough for a CPU.
_MAX_SIDE = 256


def unwrap(model: nn.Module) -> nn.Module:
    """The model within wrappers for ranks and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def bare_model(runner) -> nn.Module:
    return unwrap(runner.model)


def step_seconds(
    model: nn.Module,
    batch: dict,
    optim_wrapper: OptimWrapper,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Of one training step; on a GPU until it is done there."""
    _synchronise()
    start = clock()
    model.train_step(batch, optim_wrapper)
    _synchronise()
    return clock() - start


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Sides of the boxes that a second stage is traced and probed with, in pixels: one for each
# level of a pyramid and more, since mmdet's extractors treat a level without boxes apart.
_BOX_SIDES = (20.0, 40.0, 150.0, 300.0, 700.0)


def forward_tensors(model: nn.Module, inputs: Tensor) -> Any:
    """An OpenMMLab model's raw outputs, before losses and post-processing.

    The second stage of a two-stage detector gets fixed boxes: those of its first stage go
    through NMS, where a rounding error may change which ones come out.
    """
    if getattr(model, 'with_roi_head', False) and model.with_rpn:
        x = model.extract_feat(inputs)
        boxes = _fixed_boxes(inputs)
        return model.rpn_head(x), model.roi_head.forward(x, boxes, _data_samples(inputs))
    if hasattr(model, 'forward_transformer'):  # DETR and its kin read the size of the images
        return model(inputs, _data_samples(inputs), mode='tensor')
    return model(inputs, mode='tensor')


def _fixed_boxes(inputs: Tensor) -> list[InstanceData]:
    sides = inputs.new_tensor(_BOX_SIDES)[:, None]
    boxes = torch.cat([sides / 8, sides / 4, sides, sides], 1)
    return [InstanceData(bboxes=boxes) for _ in inputs]


def _data_samples(inputs: Tensor) -> list:
    from mmdet.structures import DetDataSample  # not installed where only classifiers train

    shape = tuple(inputs.shape[-2:])
    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    meta = dict.fromkeys(names, shape) | dict(scale_factor=(1.0, 1.0))
    return [DetDataSample(metainfo=dict(meta)) for _ in inputs]


def example_inputs(model: nn.Module, data_batch: dict, num_samples: int | None) -> Tensor:
    """The first samples of a batch, or all, as the model sees them.

    Returns:
        Shape (num_samples or fewer, C, H, W), normalised, on the model's device.

    Raises:
        TypeError: the batch or what the preprocessor makes of it is not of OpenMMLab's form.
    """
    if not isinstance(data_batch, dict) or 'inputs' not in data_batch:
        raise TypeError(
            "a batch must be a dict with 'inputs', as OpenMMLab's data sets give it, "
            f'got {type(data_batch).__name__}'
        )
    inputs = data_batch['inputs']
    if not isinstance(inputs, (Tensor, list, tuple)):  # of several branches, say
        raise TypeError(
            "a batch's 'inputs' must be one tensor or a list of pictures, "
            f'got {type(inputs).__name__}'
        )
    data = dict(inputs=inputs[:num_samples])
    inputs = model.data_preprocessor(data, training=False)['inputs']
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"the model's data_preprocessor must return 'inputs' as one tensor, "
            f'got {type(inputs).__name__}'
        )
    return inputs


def crop(inputs: Tensor) -> Tensor:
    """At most 256 pixels a side: a fully convolutional model needs no more to be traced."""
    return inputs[..., :_MAX_SIDE, :_MAX_SIDE]


def trace_at_any_size(model: nn.Module, inputs: Tensor) -> tuple[ChannelGraph, Tensor]:
    """The channel graph and the inputs it was traced on: cropped, or whole for a model of
    fixed input size.

    Raises:
        RuntimeError: the model does not run on the inputs alone.
    """
    small = crop(inputs)
    try:
        return trace_channel_graph(model, small, forward_tensors), small
    except RuntimeError:
        if small.shape == inputs.shape:
            raise
    return trace_channel_graph(model, inputs, forward_tensors), inputs


def optimizers_of(runner) -> list[Optimizer]:
    """The built optimizers; empty in a run that only tests."""
    return optimizers_in(runner.optim_wrapper)


def optimizers_in(wrapper: OptimWrapper | OptimWrapperDict | dict | None) -> list[Optimizer]:
    """Those that a wrapper holds; none in what is not built."""
    if isinstance(wrapper, OptimWrapperDict):
        return [w.optimizer for w in wrapper.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def averaged_models_of(runner) -> list[nn.Module]:
    """The models that EMA hooks keep; they must have the trained model's structure."""
    return [unwrap(averaged.module) for averaged in _ema_models_of(runner)]


def _ema_models_of(runner) -> list[BaseAveragedModel]:
    hooks = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    return [hook.ema_model for hook in hooks if hasattr(hook, 'ema_model')]


def check_replaceable(model: nn.Module) -> None:
    """Raises TypeError unless the model is plain, or in one DDP wrapper that can be put around
    it anew after its parameters have changed shape."""
    inner = (name for name, m in unwrap(model).named_modules() if is_model_wrapper(m))
    if is_model_wrapper(model) and not isinstance(model, DistributedDataParallel):
        what = f'{type(model).__name__}, which holds its parameters in another form'
    elif (name := next(inner, None)) is not None:
        what = f'{type(model).__name__}, which wraps {name} by itself'
    else:
        return
    raise TypeError(
        f'this needs a plain or DDP model, got {what}; train with MMDistributedDataParallel'
    )


def check_wrapper(runner) -> None:
    """Raises TypeError where parameters, steps or calls are not what the hooks see."""
    check_replaceable(runner.model)
    if getattr(runner, '_compile', False):
        raise TypeError("DemPHook does not know FlexibleRunner's compiled steps; use Runner")
    if runner.cfg.get('compile') and digit_version(TORCH_VERSION) < digit_version('2.2'):
        raise TypeError(
            f'torch {TORCH_VERSION} switches the hooks of optimizers off where torch.compile is '
            'used, and DemPHook acts in them; train without compile'
        )
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for wrapper in wrappers:
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
        runner._maybe_compile('train_step')


@contextmanager
def unwrapped_model(runner) -> Iterator[nn.Module]:
    """The bare model, free to change shape, and its averages with it; DDP is wrapped around it
    anew on exit.

    The old DDP wrapper must be gone before a parameter changes shape: its reducer
    holds gradient accumulators that know the old one.
    """
    check_replaceable(runner.model)
    wrapped = is_model_wrapper(runner.model)
    if wrapped:
        _set_model(runner, runner.model.module)
        gc.collect()
    try:
        yield bare_model(runner)
    finally:
        if wrapped:
            _set_model(runner, _wrapped(runner))
        for averaged in _ema_models_of(runner):
            if averaged.update_buffers:  # MMEngine writes through tensors that it took once
                averaged.avg_parameters = averaged.module.state_dict()


def _set_model(runner, model: nn.Module) -> None:
    runner.model = model
    if hasattr(runner, 'strategy'):  # FlexibleRunner's, which holds the model too
        runner.strategy.model = model


def _wrapped(runner) -> nn.Module:
    if hasattr(runner, 'strategy'):
        return runner.strategy._wrap_model(runner.model)
    return runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), runner.model)
