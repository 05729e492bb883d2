"""The steps of a prune event that all ranks take together."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from ..pruning import (
    ActivationWindow,
    ChannelGroup,
    PrunePlan,
    Removal,
    VerificationError,
    keep_mask_of,
    prune_channels,
)
from .models import forward_tensors
from .settings import PruneSettings

# Largest relative change of float32 outputs that passes for another order of summation;
# RetinaNet-R50 shows 1e-6.
_TOLERANCE = 1e-5


def over_ranks(value: float) -> float:
    """The largest of all ranks' values."""
    joined = torch.tensor([value])
    all_reduce(joined, op='max')
    return float(joined)


def select_keep_masks(
    windows: Sequence[ActivationWindow], settings: PruneSettings, logger: MMLogger
) -> dict[str, Tensor]:
    """Keep masks from what all windows of all ranks have seen, by group.

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
    split = joined.cpu().split([len(scores[0][name]) for name in names])
    for name, score in zip(names, split):
        unknown = int((~score.isfinite()).sum())
        if unknown:
            logger.warning(
                f'{name}: NaN or inf in the activations of {unknown} channels; they count as alive'
            )
    return {
        name: keep_mask_of(
            windows[0].groups[name],
            score,
            score <= 0,
            min_channels=settings.min_channels,
            round_to=settings.round_to,
        )
        for name, score in zip(names, split)
    }


def cut(
    model: nn.Module,
    groups: dict[str, ChannelGroup],
    keep_masks: dict[str, Tensor],
    *,
    probe: Tensor,
    outputs: list[Tensor],
    optimizers: list[Optimizer],
    logger: MMLogger,
) -> tuple[Removal, set[str]]:
    """Prune, verified, and without the groups that fail verification.

    Returns:
        What was done, and the names of the groups that must stay whole from now on.
    """
    at_fault: set[str] = set()
    while True:
        try:
            result = prune_channels(
                model,
                groups,
                {n: mask for n, mask in keep_masks.items() if n not in at_fault},
                batch=probe,
                forward_fn=forward_tensors,
                optimizers=optimizers,
                tolerance=_TOLERANCE,
                outputs_before=outputs,
                agree=over_ranks,
            )
            return result, at_fault
        except VerificationError as error:
            if not error.groups:
                logger.error(f'{error}; nothing is removed at this event')
                return Removal(PrunePlan({}, {}), {}, 0.0, 0.0), at_fault
            logger.error(f'{error}; these groups stay whole from now on')
            at_fault.update(error.groups)
