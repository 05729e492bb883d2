"""Scores that take passes of their own through the training data: SNAP and CroPit-S."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn

from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.saliency import gate_scores
from ...upstream import DropoutBase
from ..openmmlab import batch_loss
from ..random_numbers import frozen_random_numbers
from ..ranks import reduced
from ..runner_parts import batch_size

# Of the training data, from which a score is summed: as many as DemP's authors take.
_BATCHES = 10
_WAYS_OUT = dict(
    snap="choose by 'fisher', with timing='gradual' or 'early'",
    cropit='it takes second derivatives, which activation checkpointing (with_cp=True) and '
    'operations of mmcv (focal loss, RoIAlign, deformable convolution) do not give; train without '
    "them, or choose by 'snap'",
)


def scores_of_passes(
    runner,
    model: nn.Module,
    graph: ChannelGraph,
    groups: Mapping[str, ChannelGroup],
    score: str,
    draw: int,
) -> dict[str, Tensor]:
    """:func:`.gate_scores` over ten batches of the training data on every rank, the same on all.

    The order of the training's data does not change.

    Args:
        draw: number of those at this iteration; each has batches of its own, in every run.
    """
    with passes_of_its_own(model):
        scores, left_out = gate_scores(
            model,
            groups,
            graph.norm_of,
            (batch_loss(model, batch) for batch in _batches(runner, draw)),
            score=score,
            join=lambda sums: reduced(sums, 'sum'),
        )
    batches = _BATCHES * get_world_size()
    if left_out:
        runner.logger.warning(
            f'{left_out} of {batches} batches had a loss or gradients that are NaN or infinite, '
            'and count for nothing in the choice of channels'
        )
    silent = [name for name, values in scores.items() if values.isinf().all()]
    if silent and left_out < batches:
        runner.logger.warning(
            f'the loss says nothing of {len(silent)} of {len(scores)} groups, which stay whole: '
            f'{", ".join(silent)}; no sample reached them, or a norm layer behind them begins at '
            'gamma = 0: then train with zero_init_residual=False'
        )
    return scores


def try_score(
    runner,
    model: nn.Module,
    graph: ChannelGraph,
    groups: Mapping[str, ChannelGroup],
    score: str,
) -> None:
    """Of one batch, for nothing.

    Raises:
        RuntimeError: it cannot be computed; a cut may be hours away.
    """
    with passes_of_its_own(model):
        losses = [batch_loss(model, next(_batches(runner, 0)))]
        try:
            gate_scores(model, groups, graph.norm_of, losses, score=score, join=lambda sums: sums)
        except RuntimeError as error:
            raise RuntimeError(
                f'budget score={score!r} cannot be computed of a training batch '
                f'({error}); {_WAYS_OUT[score]}'
            ) from error


@contextmanager
def passes_of_its_own(model: nn.Module) -> Iterator[None]:
    """Passes within are training's, and leave no trace in buffers and random numbers; what a model
    counts or keeps elsewhere changes as by a training pass.

    Norm layers are as in training, so that those of a net that has not begun to train normalise.
    torch's dropout layers and mmcv's DropPath are off. What else drops by chance (the attention
    weights of nn.MultiheadAttention, DropBlock, F.dropout) does so from a fixed seed.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dropping = [m for m in model.modules() if isinstance(m, (DropoutBase, DropPath))]
    modes = [module.training for module in dropping]
    for module in dropping:
        module.training = False
    try:
        with frozen_random_numbers(model):
            yield
    finally:
        for module, training in zip(dropping, modes):
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@torch.no_grad()
def train_nothing(model: nn.Module, data_batch: dict) -> None:
    """A training pass, for the hooks of the layers that run in it."""
    with passes_of_its_own(model):
        batch_loss(model, copy.deepcopy(data_batch))


def _batches(runner, draw: int) -> Iterator[dict]:
    loader = runner.train_dataloader
    seed = np.random.SeedSequence([runner.seed, runner.iter, draw, get_rank()])
    generator = np.random.default_rng(seed)
    for _ in range(_BATCHES):
        indices = generator.integers(len(loader.dataset), size=batch_size(loader))
        yield loader.collate_fn([loader.dataset[i] for i in indices.tolist()])
