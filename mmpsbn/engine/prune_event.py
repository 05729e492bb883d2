"""The steps of a prune event that all ranks take together."""

from collections.abc import Iterable, Sequence

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..pruning import (
    ActivationWindow,
    ChannelGraph,
    ChannelGroup,
    Removal,
    VerificationError,
    also_live,
    collapsed_channels,
    foldable_channels,
    keep_mask_of,
    prune_channels,
    prune_what_holds,
    rank_channels,
)
from .models import forward_tensors
from .settings import PruneSettings


def over_ranks(value: float) -> float:
    """The largest of all ranks' values."""
    joined = torch.tensor([value])
    all_reduce(joined, op='max')
    return float(joined)


def on_any_rank(found: Iterable[str], names: list[str]) -> set[str]:
    """Those of ``names``, the same on all ranks, that are found on one of them."""
    found = set(found)
    flags = torch.tensor([name in found for name in names], dtype=torch.int32)
    all_reduce(flags, op='max')
    return {name for name, flag in zip(names, flags.tolist()) if flag}


def check_same_on_all_ranks(graph: ChannelGraph) -> None:
    """Raises RuntimeError on every rank where one of them has traced another structure."""
    ours = [(group.name, group.channels) for group in graph.groups.values()]
    first = [ours]
    broadcast_object_list(first)
    if over_ranks(float(first[0] != ours)):
        raise RuntimeError(
            'the ranks have traced different groups of channels: the model runs differently on '
            'different batches, so that nothing can be pruned alike on all ranks'
        )


def reduced(tensor: Tensor, op: str) -> Tensor:
    """The element-wise ``'sum'`` or ``'max'`` over the ranks."""
    tensor = tensor.clone()
    all_reduce(tensor, op=op)
    return tensor


def joined_scores(
    windows: Sequence[ActivationWindow], logger: MMLogger, *, least_samples: int = 1
) -> dict[str, Tensor]:
    """max |activation| of each channel of each group over all windows of all ranks, on the CPU;
    inf, with a line in the log, for what is NaN or unknown.

    Args:
        windows: of the same groups; joined over the ranks here.
        least_samples: of all ranks, that each reader must have seen in each window.
    """
    short: dict[str, int] = {}
    for window in windows:
        window.join(reduced)
        short |= window.short_of(least_samples)
    if short:
        seen = ', '.join(f'{count} by {name}' for name, count in short.items())
        logger.info(
            f'what these read stays, for they saw fewer than {least_samples} samples: {seen}'
        )
    scores = [window.scores(least_samples) for window in windows]
    joined = {}
    for name, group in windows[0].groups.items():
        score = torch.stack([s[name].cpu() for s in scores]).amax(0)
        joined[name] = score.nan_to_num(nan=torch.inf, posinf=torch.inf)
        unknown = int((~joined[name].isfinite()).sum())
        if unknown and not any(member.layer in short for member in group.readers):
            logger.warning(
                f'{name}: NaN or inf in the activations of {unknown} channels; they count as alive'
            )
    return joined


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
