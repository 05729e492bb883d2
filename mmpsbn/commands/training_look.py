"""What training data tell of a model that is not trained: scores of channels, and what is read."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log
from torch import Tensor, nn

from ..engine.openmmlab import batch_loss, example_inputs
from ..engine.random_numbers import frozen_random_numbers
from ..pruning.graph import ChannelGraph
from ..pruning.ranking import fisher_scores, rank_channels
from ..pruning.reconstruction import InputMoments
from ..pruning.saliency import GateSaliency
from ..pruning.sparsity import scale_layers
from ..upstream import DropoutBase, NormBase


def look(
    model: nn.Module,
    graph: ChannelGraph,
    data: Iterable[dict],
    *,
    criterion: str,
    reconstruct: bool,
    num_samples: int,
    seed: int,
) -> tuple[dict[str, Tensor], InputMoments]:
    """The scores of a criterion; and the moments of what is read, where readers are to take over.

    Afterwards the parameters of the layers that were scored require gradients.

    Args:
        data: batches of training data, of which ``num_samples`` pictures are looked at, or all.
        seed: of random scores.

    Raises:
        ValueError: there is no norm layer for ``'bn_scale'``, or no finite gradient for
            ``'fisher'``.
        RuntimeError: readers are to take over, and the losses fail.
    """
    if criterion == 'bn_scale' and not scale_layers(model):
        raise ValueError(
            'bn_scale ranks by the scales of normalisation layers, and '
            f'{type(model).__name__} has none; rank by l1'
        )
    moments = InputMoments(model, graph.groups if reconstruct else {}, taps=True)
    with closing(moments), _in_training(model):
        if criterion == 'fisher':
            _require_gradients(model, graph)
            with closing(GateSaliency(model, graph.groups, graph.norm_of)) as saliency:
                for loss in _losses(model, data, num_samples):
                    loss.backward()
                    saliency.add()
            return fisher_scores(_scores_of(saliency, model)), moments
        if reconstruct:
            try:
                with torch.no_grad():
                    deque(_losses(model, data, num_samples), maxlen=0)
            except Exception as error:
                raise RuntimeError(
                    f'{type(model).__name__} cannot be trained on a batch of the train_dataloader '
                    f'({type(error).__name__}: {error}), which shows what its layers read; without '
                    'that: --no-reconstruct'
                ) from error
    return rank_channels(model, graph.groups, criterion=criterion, seed=seed), moments


def training_images(model: nn.Module, data: Iterable[dict], num_samples: int) -> Iterator[Tensor]:
    """Batches that make up ``num_samples`` training images, or one epoch if that is less."""
    for data_batch in data:
        images = example_inputs(model, data_batch, num_samples)
        num_samples -= len(images)
        yield images
        if num_samples <= 0:
            return


@contextmanager
def _in_training(model: nn.Module) -> Iterator[None]:
    """Within, the model is in training mode, but for its normalisation, which is that of the
    statistics that it has, and for dropout and stochastic depth, which are off."""
    with frozen_random_numbers(model):
        model.train()
        for module in model.modules():
            if isinstance(module, (NormBase, DropoutBase, DropPath)):
                module.eval()
        yield
    model.zero_grad(set_to_none=True)
    model.eval()


def _require_gradients(model: nn.Module, graph: ChannelGraph) -> None:
    """Of the layers that write the channels of groups, or normalise them: those that a training
    would freeze are scored too."""
    members = [m for group in graph.groups.values() for m in (*group.writers, *group.channelwise)]
    for layer in {member.layer for member in members}.union(*graph.norm_of.values()):
        for parameter in model.get_submodule(layer).parameters(recurse=False):
            parameter.requires_grad_(True)


def _losses(model: nn.Module, data: Iterable[dict], num_samples: int) -> Iterator[Tensor]:
    """Of batches of training pictures with their labels, until there are ``num_samples`` or an
    epoch has ended."""
    for data_batch in data:
        num_samples -= len(data_batch['inputs'])
        model.zero_grad(set_to_none=True)
        yield batch_loss(model, data_batch)
        if num_samples <= 0:
            break


def _scores_of(saliency: GateSaliency, model: nn.Module) -> dict[str, Tensor]:
    """Raises ValueError where no batch had finite gradients."""
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
