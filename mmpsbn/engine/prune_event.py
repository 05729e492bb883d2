"""The steps of a prune event that all ranks take together."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from ..pruning import (
    ActivationWindow,
    ChannelGraph,
    ChannelGroup,
    PrunePlan,
    Removal,
    VerificationError,
    also_live,
    collapsed_channels,
    foldable_channels,
    keep_mask_of,
    masked_outputs,
    prune_channels,
    rank_channels,
)
from .models import forward_tensors
from .settings import PruneSettings


def over_ranks(value: float) -> float:
    """The largest of all ranks' values."""
    joined = torch.tensor([value])
    all_reduce(joined, op='max')
    return float(joined)


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


def joined_scores(windows: Sequence[ActivationWindow], logger: MMLogger) -> dict[str, Tensor]:
    """max |activation| of each channel of each group over all windows of all ranks.

    NaN and inf are reported with their group and count as alive.
    """
    # NaN would not survive a maximum over ranks on every backend; inf does
    scores = [
        {n: s.nan_to_num(nan=float('inf'), posinf=float('inf')) for n, s in w.scores().items()}
        for w in windows
    ]
    names = list(scores[0])
    joined = torch.stack([torch.cat([s[name] for name in names]) for s in scores]).amax(0)
    all_reduce(joined, op='max')
    split = dict(zip(names, joined.cpu().split([len(scores[0][name]) for name in names])))
    for name, score in split.items():
        unknown = int((~score.isfinite()).sum())
        if unknown:
            logger.warning(
                f'{name}: NaN or inf in the activations of {unknown} channels; they count as alive'
            )
    return split


def joined_constants(window: ActivationWindow) -> dict[str, Tensor]:
    """What each reader sees of each position, the middle of the range over all ranks."""
    names = sorted(window.ranges)
    constants = {}
    for name in names:
        low, high = (x.clone() for x in window.ranges[name])
        all_reduce(low, op='min')
        all_reduce(high, op='max')
        constants[name] = (low + high) / 2
    return constants


def select_keep_masks(
    models: Sequence[nn.Module],
    graph: ChannelGraph,
    scores: dict[str, Tensor],
    settings: PruneSettings,
) -> tuple[dict[str, Tensor], bool]:
    """Keep masks by group, and whether live channels are removed to round a width.

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
            removable |= collapsed.all(0)
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
    probe: Tensor,
    outputs: list[Tensor] | None,
    constants: dict[str, Tensor] | None,
    norm_of: dict[str, tuple[str, ...]],
    optimizers: list[Optimizer],
    settings: PruneSettings,
    logger: MMLogger,
) -> tuple[Removal, set[str]]:
    """Prune, verified, and without the groups that fail verification.

    Args:
        outputs: of the probe before; None where live channels are removed, and the outputs must
            be those of a model in which no reader sees them.

    Returns:
        What was done, and the names of the groups that must stay whole from now on.
    """
    at_fault: set[str] = set()
    while True:
        masks = {n: mask for n, mask in keep_masks.items() if n not in at_fault}
        expected = outputs
        if expected is None:
            expected = masked_outputs(model, groups, masks, probe, forward_tensors)
        try:
            result = prune_channels(
                model,
                groups,
                masks,
                batch=probe,
                forward_fn=forward_tensors,
                optimizers=optimizers,
                tolerance=settings.tolerance,
                constants=constants,
                norm_of=norm_of,
                outputs_before=expected,
                agree=over_ranks,
            )
            return result, at_fault
        except VerificationError as error:
            if settings.on_failure == 'stop':
                raise
            if not error.groups:
                logger.error(f'{error}; nothing is removed at this event')
                return Removal(PrunePlan({}, {}), {}, 0.0, 0.0), at_fault
            logger.error(f'{error}; these groups stay whole from now on')
            at_fault.update(error.groups)
