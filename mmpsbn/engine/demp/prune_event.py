"""The steps of a prune event that all ranks take together."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ...pruning import VerificationError
from ...pruning.activation import ActivationWindow
from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.lossless import (
    NEVER_POSITIVE,
    also_live,
    keep_mask_of,
    removable_without_loss,
)
from ...pruning.prune import Removal, prune_channels, prune_what_holds
from ...pruning.ranking import rank_channels
from ...pruning.verification import probe_outputs
from ..openmmlab import forward_tensors
from ..ranks import over_ranks
from .settings import PruneSettings


def look_at(
    models: Sequence[nn.Module], groups: Mapping[str, ChannelGroup], probe: Tensor
) -> tuple[list[ActivationWindow], list[Tensor]] | None:
    """What the readers of the groups see in each model with its weights as they are, and the
    outputs of the first; None where an output on one of the ranks is NaN or inf, so that nothing
    can be verified."""
    windows, outputs = [], []
    for model in models:
        window = ActivationWindow(model, groups, in_training_only=False)
        try:
            outputs.append(probe_outputs(model, probe, forward_tensors))
        finally:
            window.close()
        windows.append(window)
    finite = all(x.isfinite().all() for of_model in outputs for x in of_model)
    return None if over_ranks(float(not finite)) else (windows, outputs[0])


def select_keep_masks(
    models: Sequence[nn.Module],
    graph: ChannelGraph,
    scores: dict[str, Tensor],
    settings: PruneSettings,
) -> tuple[dict[str, Tensor], bool]:
    """Keep masks by group, and whether channels are removed that are neither dead nor collapsed:
    live ones, to round a width, or those that are never positive. A group of which nothing is known
    has none: it stays whole.

    Args:
        models: the trained one and its averages; what goes must be collapsed in all.
        scores: of the groups to prune, from :func:`peak_activations`.
    """
    keep_masks, live = {}, False
    importance = {}
    if settings.allow_live and settings.round_to > 1:
        groups = {name: graph.groups[name] for name in scores}
        importance = rank_channels(models[0], groups, criterion='bn_scale', seed=0)
    for name, score in scores.items():
        if not score.isfinite().any():
            continue
        group = graph.groups[name]
        removable = removable_without_loss(
            models,
            group,
            graph.norm_of,
            score=score,
            criterion=settings.criterion,
            eps=settings.eps,
            gamma_threshold=settings.gamma_threshold,
            fold_padding=settings.fold_padding,
        )
        live = live or (settings.criterion == NEVER_POSITIVE and bool(removable.any()))
        rounding = dict(min_channels=settings.min_channels, round_to=settings.round_to)
        if name in importance:
            lossless = removable
            known = importance[name].where(score.isfinite(), torch.inf)
            removable = also_live(group, lossless, known, **rounding)
            live = live or not torch.equal(lossless, removable)
        keep_masks[name] = keep_mask_of(group, score, removable, **rounding)
    return keep_masks, live


def cut(
    models: Sequence[nn.Module],
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    *,
    scores: Mapping[str, Tensor],
    probes: Sequence[ActivationWindow],
    live: bool,
    settings: PruneSettings,
    logger: MMLogger,
    **how,
) -> Removal:
    """Prune the model and its averages alike, verified: without what fails verification, which
    stays until the next event, or with an error where the run is to stop there.

    Args:
        scores: of :func:`peak_activations`.
        probes: what the readers of each model see; a constant is folded as its model emits it.
        live: live channels go too, of which nothing can be folded.
        how: ``batch``, ``optimizers`` and ``norm_of`` of :func:`prune_channels`.

    Raises:
        VerificationError: with ``on_failure='stop'``.
    """
    folds = settings.criterion == 'collapsed' and not live
    how |= dict(
        averages=models[1:],
        constants=[seen.values() for seen in probes] if folds else (),
        live=live,
        forward_fn=forward_tensors,
        tolerance=settings.tolerance,
        agree=over_ranks,
    )
    if settings.on_failure == 'stop':
        return prune_channels(models[0], groups, keep_masks, **how)
    try:
        removal, refused = prune_what_holds(
            models[0],
            groups,
            keep_masks,
            scores=scores,
            min_channels=settings.min_channels,
            round_to=settings.round_to,
            **how,
        )
    except VerificationError as error:
        logger.error(f'{error}; nothing is removed at this event')
        return Removal.of_nothing()
    for why in dict.fromkeys(refused.values()):
        logger.error(f'{why}; at this event what was not exactly 0 stays there')
    return removal
