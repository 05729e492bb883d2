"""How long a model takes on one image, on the clock that the user names."""

import statistics
import tempfile
import time

import torch
from torch import Tensor, nn

from ...pruning.cost import measure_latency
from ..onnx_file import check_one_stage, check_onnx_installed, one_thread_session, write_onnx
from ..openmmlab import forward_tensors

ONNXRUNTIME = 'onnxruntime'
_REPEATS = 15


def milliseconds(model: nn.Module, image: Tensor, device: str) -> float:
    """Median of a forward pass in eval mode.

    Args:
        image: shape (1, C, H, W).
        device: of PyTorch; or ``'onnxruntime'``: of the exported model, on one thread of the CPU.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
        ValueError: onnxruntime cannot run a detector with two stages.
        RuntimeError: PyTorch cannot export the model, or onnxruntime cannot run it.
    """
    if device != ONNXRUNTIME:
        return 1e3 * measure_latency(model, image, forward_tensors, device=device)
    check_onnx_installed()
    check_one_stage(model)
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(model, torch.cat([image, image]), f'{folder}/model.onnx')
        session = one_thread_session(f'{folder}/model.onnx')
    feed = dict(inputs=image.cpu().numpy())
    seconds = []
    for _ in range(_REPEATS + 2):  # two warm up
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[2:])
