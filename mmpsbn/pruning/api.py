"""Prune anybody's model with one call."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from .activation import ActivationWindow, keep_speaking
from .cost import count_positions, model_cost
from .forward import ForwardFn, call_with, evaluating
from .graph import ChannelGroup, trace_channel_graph
from .prune import Removal, prune_channels


@dataclass(frozen=True)
class PruneResult(Removal):
    """A verified removal and what it saved.

    Attributes:
        params_before, params_after: numbers of parameters.
        macs_before, macs_after: multiply-accumulates of the first batch.
        skipped: layer -> why its channels were left whole.
    """

    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    skipped: dict[str, str]


def prune_dead_channels(
    model: nn.Module,
    batches: Iterable[Any],
    criterion: str | Mapping[str, Tensor] = 'dead',
    optimizers: Iterable[Optimizer] = (),
    forward_fn: ForwardFn | None = None,
    tolerance: float = 1e-5,
    *,
    round_to: int = 1,
    min_channels: int = 1,
) -> PruneResult:
    """Remove channels that do nothing, in place, and check that the outputs stay.

    Args:
        model: any module, not wrapped in DDP.
        batches: example inputs on the model's device; the first one is also the probe on
            which outputs are compared.
        criterion: ``'dead'`` (0 on all batches wherever it is read), or keep masks: layer
            name -> bool, shape (C,), True = keep.
        optimizers: those that hold the model's parameters.
        forward_fn: ``forward_fn(model, batch)`` returns tensors in any nesting; by
            default ``model(batch)``, a tuple being arguments and a dict keyword arguments.
        tolerance: largest relative error of the outputs that passes for rounding.
        round_to: widths stay multiples of this where enough dead channels are left to do so.
        min_channels: a group is never left with fewer.

    Raises:
        VerificationError: the outputs differ; model and optimizers are as before.
        ValueError, TypeError, RuntimeError: bad input; the model is as before.
    """
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        raise TypeError(f'{type(model).__name__} holds the old shapes; pass model.module')
    forward_fn = forward_fn or call_with
    batches = iter(batches)
    try:
        probe = next(batches)
    except StopIteration:
        raise ValueError('batches is empty; give at least one example input') from None
    graph = trace_channel_graph(model, probe, forward_fn)
    positions = count_positions(model, probe, forward_fn)
    if criterion == 'dead':
        scores = _max_abs(model, graph.groups, itertools.chain([probe], batches), forward_fn)
        keep_masks = {
            name: keep_speaking(
                graph.groups[name], score, min_channels=min_channels, round_to=round_to
            )
            for name, score in scores.items()
        }
    else:
        keep_masks = criterion
    before = model_cost(model, positions)
    removal = prune_channels(
        model,
        graph.groups,
        keep_masks,
        batch=probe,
        forward_fn=forward_fn,
        optimizers=optimizers,
        tolerance=tolerance,
    )
    after = model_cost(model, positions)
    return PruneResult(
        **vars(removal),
        params_before=before.params,
        params_after=after.params,
        macs_before=before.macs,
        macs_after=after.macs,
        skipped=graph.skipped,
    )


def _max_abs(
    model: nn.Module, groups: Mapping[str, ChannelGroup], batches, forward_fn: ForwardFn
) -> dict[str, Tensor]:
    """max |activation| of each channel of each group over the batches, in eval mode."""
    window = ActivationWindow(model, groups, in_training_only=False)
    try:
        with torch.no_grad(), evaluating(model):
            for batch in batches:
                forward_fn(model, batch)
        return window.scores()
    finally:
        window.close()
