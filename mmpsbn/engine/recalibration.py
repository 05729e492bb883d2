"""BatchNorm statistics for a model that has changed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..pruning.forward import evaluating
from .models import forward_tensors


def recalibrate_batch_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimate the running statistics anew: the plain mean over the batches (and over
    the calls of a layer that runs several times).

    Everything else stays in eval mode. Frozen BatchNorms are estimated too: pruning has
    changed what they read.
    """
    norms = {
        module: module.momentum
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    if not norms:
        raise ValueError(
            f'{type(model).__name__} has no BatchNorm statistics to estimate; '
            'leave out --recalibrate'
        )
    with torch.no_grad(), evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the cumulative mean
            norm.training = True
        for batch in batches:
            forward_tensors(model, batch)
    for norm, momentum in norms.items():
        norm.momentum = momentum
