"""Whether channels that one forward pass lets go can go where another one runs as well.

The groups are of the pass that pruning traces; the other one is what the losses take, with heads
and embeddings that run in training alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .graph import ChannelGroup
from .tracing import trace_pass


def trace_other_pass(
    model: nn.Module, groups: Mapping[str, ChannelGroup], forward: Callable[[], Any]
) -> tuple[dict[str, str], set[str]]:
    """Follow the channels of ``groups``, traced in one pass, through another.

    The model runs as it stands: in its mode, with its random numbers and buffers.

    Args:
        forward: the other pass; returns tensors, in lists, tuples and dicts of any nesting.

    Returns:
        Group -> why it must stay whole: in this pass a channel of it is an output, goes
        through an operation without a rule, or belongs with slices that the group does not
        have. And the layers that ran.
    """
    with torch.no_grad():
        trace = trace_pass(model, forward)
    held = {
        (tensor, dim, position): (name, channel)
        for name, group in groups.items()
        for member in group.members
        for tensor, dim in member.tensors
        for position, channel in zip(member.index, member.channel)
    }
    together: dict[int, list[tuple[str, int, int]]] = {}
    for label, place in trace.source.items():
        together.setdefault(trace.labels.find(label), []).append(place)
    pinned = trace.labels.reasons()
    whole: dict[str, str] = {}
    for root, places in together.items():
        owners = {held.get(place) for place in places}
        if root not in pinned and len(owners) == 1:  # all of one channel, or of no group at all
            continue
        for owner in owners - {None}:
            others = (name for name, *at in places if held.get((name, *at)) != owner)
            whole.setdefault(owner[0], pinned.get(root) or f'goes with {next(others)}')
    return whole, trace.called
