"""What the loss misses without each channel of a trained model."""

import logging

from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..engine.openmmlab import batch_loss
from ..engine.random_numbers import frozen_random_numbers
from ..pruning.graph import ChannelGraph
from ..pruning.saliency import GateSaliency
from ..upstream import DropoutBase, NormBase


def loss_saliency(
    model: nn.Module, graph: ChannelGraph, loader: DataLoader, *, num_samples: int
) -> dict[str, Tensor]:
    """The scores of :class:`.GateSaliency` over training pictures with their labels.

    Normalisation is that of the statistics that the model has, which stay as they are; dropout and
    stochastic depth are off. Gradients are freed again.

    Args:
        model: an OpenMMLab model.
        loader: of training data; an epoch of it, where that is less than ``num_samples``.

    Raises:
        ValueError: no batch gives finite gradients.
    """
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    with frozen_random_numbers(model):
        model.train()
        for module in model.modules():
            if isinstance(module, (NormBase, DropoutBase, DropPath)):
                module.eval()
        for data_batch in loader:
            num_samples -= len(data_batch['inputs'])
            model.zero_grad(set_to_none=True)
            batch_loss(model, data_batch).backward()
            saliency.add()
            if num_samples <= 0:
                break
    model.zero_grad(set_to_none=True)
    model.eval()
    if not saliency.steps:
        raise ValueError(
            f'fisher chooses by gradients, and none of {saliency.seen} batches of '
            f'{type(model).__name__} has finite ones; rank by l1'
        )
    if saliency.steps < saliency.seen:
        print_log(
            f'{saliency.seen - int(saliency.steps)} of {saliency.seen} batches had gradients that '
            'are NaN or infinite, and count for nothing',
            logger='current',
            level=logging.WARNING,
        )
    return saliency.scores()
