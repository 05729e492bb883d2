"""ONNX out of a model, and the proof that onnxruntime computes the same."""

import inspect
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..pruning.forward import evaluating, tensors_in
from ..pruning.verification import output_errors
from .openmmlab import forward_tensors

_OPSET = 17


class _RawOutputs(nn.Module):
    """The model's raw outputs as one flat tuple, which is what ONNX knows."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(forward_tensors(self.model, inputs)))


def check_onnx_installed() -> None:
    """Raises ModuleNotFoundError with what to install."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'ONNX needs onnx and onnxruntime ({error}); run pip install onnx onnxruntime'
        ) from None


def check_one_stage(model: nn.Module) -> None:
    """Raises ValueError for a model with a second stage: ``forward_tensors`` gives it fixed
    boxes, which a file would hold for one batch size; boxes of its own come out of NMS. So do the
    objects whose masks one stage makes."""
    if getattr(model, 'with_roi_head', False):
        raise ValueError(
            f'{type(model).__name__} cannot be written as ONNX, which holds raw outputs alone: '
            f'its second stage ({type(model.roi_head).__name__}) reads regions that its first '
            'stage chooses while it runs'
        )
    if hasattr(model, 'with_mask') and hasattr(model, 'mask_head') and model.with_bbox:
        raise ValueError(
            f'{type(model).__name__} cannot be written as ONNX, which holds raw outputs alone: '
            f'its masks ({type(model.mask_head).__name__}) are of objects that come out of NMS'
        )


def write_onnx(model: nn.Module, inputs: Tensor, path: str) -> float:
    """Write the raw outputs (``mode='tensor'``) of a model as ONNX, any batch size.

    Args:
        inputs: shape (N, C, H, W), N >= 2, as the data_preprocessor gives it; H and W are
            those of the ONNX model.

    Returns:
        max |onnxruntime - PyTorch| over max |PyTorch| of the tensor, the largest of all
        outputs, on these inputs and on the first of them alone.

    Raises:
        RuntimeError: PyTorch cannot write the model, or onnxruntime cannot run it.
    """
    wrapped = _RawOutputs(model)
    with torch.no_grad(), evaluating(wrapped), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the tracer warns of each shape it makes constant
        names = output_names(model, forward_tensors(model, inputs))
        options = dict(
            input_names=['inputs'],
            output_names=names,
            dynamic_axes={name: {0: 'batch'} for name in ('inputs', *names)},
            opset_version=_OPSET,
        )
        # torch 2.1 has the TorchScript exporter alone and does not know the switch
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            options['dynamo'] = False
        with _refusing_in_words(model, 'torch.onnx.export cannot write'):
            torch.onnx.export(wrapped, (inputs,), path, **options)
        return max(_error(wrapped, x, path) for x in (inputs, inputs[:1]))


def one_thread_session(model: nn.Module, image: Tensor):
    """An ``onnxruntime.InferenceSession`` of the exported model on one thread of the CPU.

    Args:
        image: shape (1, C, H, W).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/model.onnx'
        write_onnx(model, torch.cat([image, image]), path)
        return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


@contextmanager
def _refusing_in_words(model: nn.Module, what: str) -> Iterator[None]:
    """The exporter's and the runtime's errors are of many classes, some of Exception alone."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RuntimeError(f'{what} {type(model).__name__} as ONNX: {reason}') from error


def _error(wrapped: _RawOutputs, inputs: Tensor, path: str) -> float:
    import onnxruntime

    with _refusing_in_words(wrapped.model, 'onnxruntime cannot run'):
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        outputs = session.run(None, {'inputs': inputs.cpu().numpy().astype(np.float32)})
    ours = [x.float().cpu() for x in wrapped(inputs)]
    return output_errors(ours, [torch.from_numpy(x) for x in outputs])[1]


def output_names(model: nn.Module, outputs: Any) -> list[str]:
    """A name for each output tensor.

    A detection head's loss takes what its forward returns, so its arguments name the
    outputs: ``cls_scores_0``, ... Else they are ``output``, or ``output_0``, ...
    """
    if isinstance(outputs, Tensor):
        return ['output']
    head = getattr(model, 'bbox_head', None)
    roots = [f'output_{i}' for i in range(len(outputs))]
    if hasattr(head, 'loss_by_feat') and isinstance(outputs, tuple):
        roots = list(inspect.signature(head.loss_by_feat).parameters)[: len(outputs)]
    names = []
    for root, output in zip(roots, outputs):
        tensors = list(tensors_in(output))
        several = not isinstance(output, Tensor)
        names += [f'{root}_{i}' if several else root for i in range(len(tensors))]
    return names
