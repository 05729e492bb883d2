"""The steps of a prune event that all ranks take together."""

from collections.abc import Sequence

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ...pruning import VerificationError
from ...pruning.criteria import also_live, collapsed_channels, foldable_channels, keep_mask_of
from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.prune import Removal, prune_channels, prune_what_holds
from ...pruning.ranking import rank_channels
from ..openmmlab import forward_tensors
from ..ranks import over_ranks
from .settings import PruneSettings


def select_keep_masks(
    models: Sequence[nn.Module],
    graph: ChannelGraph,
    scores: dict[str, Tensor],
    settings: PruneSettings,
) -> tuple[dict[str, Tensor], bool]:
    """Keep masks by group, and whether live channels are removed to round a width. A group of
    which nothing is known has none: it stays whole.

    Args:
        models: the trained one and its averages; what goes must be collapsed in all.
        scores: of the groups to prune, from :func:`joined_scores`.
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
        removable = score <= settings.eps
        if settings.criterion == 'collapsed':
            collapsed = torch.stack(
                [
                    collapsed_channels(model, group, threshold=settings.gamma_threshold)
                    & foldable_channels(
                        model, group, graph.norm_of, fold_padding=settings.fold_padding
                    )
                    for model in models
                ]
            )
            removable |= collapsed.all(0) & score.isfinite()  # else it is unknown
        rounding = dict(min_channels=settings.min_channels, round_to=settings.round_to)
        if name in importance:
            silent = removable
            removable = also_live(group, silent, importance[name], **rounding)
            live = live or not torch.equal(silent, removable)
        keep_masks[name] = keep_mask_of(group, score, removable, **rounding)
    return keep_masks, live


def cut(
    model: nn.Module,
    groups: dict[str, ChannelGroup],
    keep_masks: dict[str, Tensor],
    *,
    scores: dict[str, Tensor],
    settings: PruneSettings,
    logger: MMLogger,
    **how,
) -> Removal:
    """Prune, verified: at this event, without what fails verification.

    Args:
        scores: of :func:`joined_scores`.
        how: ``batch``, ``optimizers``, ``constants``, ``averages``, ``norm_of`` and ``live`` of
            :func:`prune_channels`.
    """
    how |= dict(forward_fn=forward_tensors, tolerance=settings.tolerance, agree=over_ranks)
    if settings.on_failure == 'stop':
        return prune_channels(model, groups, keep_masks, **how)
    try:
        removal, refused = prune_what_holds(
            model,
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
