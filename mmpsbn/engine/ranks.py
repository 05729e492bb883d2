"""What all ranks of a run agree on."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from mmengine.logging import MMLogger
from torch import Tensor

from ..pruning.activation import ActivationWindow
from ..pruning.graph import ChannelGraph


def of_rank_0(value: Any) -> Any:
    """What rank 0 has here, on every rank: a number on which all must act, or its seed, where
    ``diff_rank_seed`` gives each its own. Ranks call it together."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


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
    if over_ranks(float(of_rank_0(ours) != ours)):
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
    windows: Sequence[ActivationWindow],
    logger: MMLogger,
    *,
    least_samples: int = 1,
    positive: bool = False,
) -> dict[str, Tensor]:
    """:meth:`.ActivationWindow.scores` over all windows of all ranks, on the CPU; inf, with a line
    in the log, for what is NaN or unknown.

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
    scores = [window.scores(least_samples, positive=positive) for window in windows]
    joined = {}
    for name, group in windows[0].groups.items():
        score = torch.stack([s[name].cpu() for s in scores]).amax(0)
        joined[name] = score.nan_to_num(nan=torch.inf, posinf=torch.inf)
        unknown = int((~joined[name].isfinite()).sum())
        # of a reader that saw too little it was said above
        if unknown and not any(member.layer in short for member in group.readers):
            logger.warning(
                f'{name}: NaN or inf in the activations of {unknown} channels; they count as alive'
            )
    return joined
