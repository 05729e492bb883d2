"""BatchNorm statistics for a model that has changed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..engine.openmmlab import forward_tensors
from ..pruning.forward import evaluating
from ..upstream import BatchNormBase


def recalibrate_batch_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimate the running statistics anew: the plain mean over the batches (and over
    the calls of a layer that runs several times).

    Everything else stays in eval mode. Frozen BatchNorms are estimated too: pruning has
    changed what they read. A layer that no batch reaches keeps its statistics.

    Raises:
        ValueError: the model has no BatchNorm with running statistics.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, BatchNormBase) and module.track_running_stats
    ]
    if not norms:
        raise ValueError(
            f'{type(model).__name__} has no BatchNorm statistics to estimate; '
            'leave out --recalibrate'
        )
    before = [(norm.momentum, [x.clone() for x in _statistics(norm)]) for norm in norms]
    with torch.no_grad(), evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the cumulative mean
            norm.training = True
        for batch in batches:
            forward_tensors(model, batch)
    for norm, (momentum, statistics) in zip(norms, before):
        norm.momentum = momentum
        if not norm.num_batches_tracked:
            for now, then in zip(_statistics(norm), statistics):
                now.copy_(then)


def _statistics(norm: BatchNormBase) -> tuple[Tensor, Tensor, Tensor]:
    return norm.running_mean, norm.running_var, norm.num_batches_tracked
