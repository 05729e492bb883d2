"""How a model of OpenMMLab is built, called and traced."""

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..pruning import trace_channel_graph
from ..pruning.graph import ChannelGraph

# Side of the crop that traces and probes run on: large enough for seven levels of
# stride, small enough for a CPU.
_MAX_SIDE = 256


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

    What comes out of NMS would change with a rounding error: the second stage of a two-stage
    detector gets fixed boxes, and masks that are made for single objects are left out. What such
    a part reads, or one that has queries in place of boxes, is an output itself.
    """
    if hasattr(model, 'mask_head') and hasattr(model, 'with_mask'):  # mmdet's, of one stage
        x = model.extract_feat(inputs)
        return (x, model.bbox_head(x)) if model.with_bbox else _before_nms(model.mask_head, x)
    if getattr(model, 'with_roi_head', False):
        x = model.extract_feat(inputs)
        if model.with_rpn and not _has_forward(model.rpn_head):  # Sparse R-CNN
            return x
        proposed = model.rpn_head(x) if model.with_rpn else ()  # Fast R-CNN's come with the data
        return proposed, model.roi_head.forward(x, _fixed_boxes(inputs), _data_samples(inputs))
    # DETR and its kin, and MaskFormer, read the size of the images
    if hasattr(model, 'forward_transformer') or hasattr(model, 'panoptic_head'):
        return model(inputs, _data_samples(inputs), mode='tensor')
    return model(inputs, mode='tensor')


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _before_nms(mask_head: nn.Module, x: Any) -> Any:
    """SOLO keeps the largest of its neighbours in evaluation mode, by ``==``; its layers stay in
    that mode."""
    mode = mask_head.training
    mask_head.training = True
    try:
        return mask_head(x)
    finally:
        mask_head.training = mode


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


def batch_loss(model: nn.Module, data_batch: dict) -> Tensor:
    """The loss of a training batch, with its graph."""
    data = model.data_preprocessor(data_batch, True)
    losses = model(**data, mode='loss') if isinstance(data, dict) else model(*data, 'loss')
    return model.parse_losses(losses)[0]


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
            "a batch's 'inputs' must be one tensor or a list of pictures, got "
            f'{type(inputs).__name__}; of a detector whose data have several branches '
            '(semi-supervised), prune the detector within, with its own config'
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


def model_cfg_of(cfg: Config) -> dict:
    """What to build the config's model from.

    Raises:
        ValueError: the config has no model.
    """
    if cfg.get('model') is None:
        raise ValueError('the config has no model; start the run with mmpsbn train')
    model_cfg = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:  # mmpretrain's configs have it beside the model
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model_cfg
