"""How long a model takes on one image, on the clock that the user names."""

import time

from torch import Tensor, nn

from ...pruning.cost import measure_latency, median_seconds
from ..onnx_file import check_one_stage, check_onnx_installed, one_thread_session
from ..openmmlab import forward_tensors


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
    if device != 'onnxruntime':
        return 1e3 * measure_latency(model, image, forward_tensors, device=device)
    check_onnx_installed()
    check_one_stage(model)
    session = one_thread_session(model, image)
    feed = dict(inputs=image.cpu().numpy())
    # where nothing else runs that is the time on the wall, and elsewhere it is hardly another
    return 1e3 * median_seconds(lambda: session.run(None, feed), clock=time.thread_time)
