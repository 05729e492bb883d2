"""What belongs together: channel groups, read from a trace of the model."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .channel_trace import ChannelTrace
from .forward import ForwardFn, is_conv_or_linear, observing, output_dim
from .tracing import trace_pass
from .union_find import UnionFind

NOT_REACHED = 'not reached by the trace'


@dataclass(frozen=True)
class Member:
    """The part of a layer that a group's channels occupy.

    ``index[k]`` is the position in the layer that belongs to channel ``channel[k]`` of the
    group. Writers are indexed by output channel, channelwise layers by feature, readers by input
    channel (after a flatten one channel has several positions).

    Attributes:
        layer: name; '' for the model itself.
        slices: (tensor of the layer, dimension) that the positions index.
        size: positions of the layer, those outside the group included.
    """

    layer: str
    index: tuple[int, ...]
    channel: tuple[int, ...]
    slices: tuple[tuple[str, int], ...]
    size: int

    @property
    def tensors(self) -> list[tuple[str, int]]:
        """``slices`` by the tensors' names in the model."""
        return [(f'{self.layer}.{name}'.lstrip('.'), dim) for name, dim in self.slices]

    def positions(self, channels: Tensor) -> list[int]:
        """Those that belong to some channels of the group, a mask of shape (channels,)."""
        wanted = channels.tolist()
        return [i for i, c in zip(self.index, self.channel) if wanted[c]]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share layers, named after their first writer.

    A channel of the group is the smallest unit that can be removed: usually one output
    channel of each writer, and all channels of a group of a grouped convolution.

    Attributes:
        writers: convolutions and linear layers that produce the channels.
        channelwise: layers that treat each channel by itself: normalisation, grouped convolution,
            any parameter that is multiplied or added.
        readers: convolutions and linear layers that sum over the channels.
    """

    name: str
    channels: int
    writers: tuple[Member, ...]
    channelwise: tuple[Member, ...]
    readers: tuple[Member, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.writers, *self.channelwise, *self.readers)


@dataclass(frozen=True)
class ChannelGraph:
    """The prunable groups of a model, why other channels are not, and who normalises whom.

    Attributes:
        groups: by name.
        channels: all channels that one layer writes and another reads, in the same form, for
            observation only: also those that cannot be removed; and those that only a
            GroupNorm's statistics join are apart here, for each is dead or not by itself.
        skipped: conv or linear layer -> why its output channels, or how many of them, are
            left whole.
        norm_of: conv or linear layer that only norm layers of its own read -> these (several
            where the layer is shared between levels that have their own).
    """

    groups: dict[str, ChannelGroup]
    channels: dict[str, ChannelGroup]
    skipped: dict[str, str]
    norm_of: dict[str, tuple[str, ...]]

    @property
    def left_whole(self) -> str:
        """``skipped`` as a text."""
        return by_reason(self.skipped)


def by_reason(skipped: Mapping[str, str]) -> str:
    """``'layer, layer (why); layer (why)'``; each reason once, for a detector has it for many."""
    layers: dict[str, list[str]] = {}
    for layer, why in skipped.items():
        layers.setdefault(why, []).append(layer)
    return '; '.join(f'{", ".join(names)} ({why})' for why, names in layers.items())


def trace_channel_graph(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> ChannelGraph:
    """Trace ``forward_fn(model, batch)`` in eval mode and group the channels that go together.

    The model is not changed. A channel is left whole, with the reason in ``skipped``, if an
    operation it goes through has no rule, if it is an output of the model, if it meets
    a tensor of fixed size (the zero-padded shortcuts of CIFAR ResNets, say), or where the batch
    is empty (a branch for which nothing is chosen).

    Args:
        batch: what ``forward_fn`` takes; one small sample is enough.
        forward_fn: returns tensors, in lists, tuples and dicts of any nesting.

    Raises:
        RuntimeError: the forward pass failed; the original error is chained.
    """
    try:
        with observing(model):
            trace = trace_pass(model, lambda: forward_fn(model, batch))
    except Exception as error:
        raise RuntimeError(
            f'cannot trace {type(model).__name__} ({type(error).__name__}: {error})'
        ) from error
    return _GraphBuilder(model, trace).build()


def trace_held_groups(
    model: nn.Module, groups: Mapping[str, ChannelGroup], forward: Callable[[], Any]
) -> tuple[dict[str, str], set[str]]:
    """Which groups cannot lose channels for what another pass does with them: that of the losses,
    say, with heads that run in training alone.

    The model runs as it stands: in its mode, with its random numbers and buffers.

    Args:
        groups: of :func:`trace_channel_graph`.
        forward: the other pass; returns tensors, in lists, tuples and dicts of any nesting.

    Returns:
        Group -> why it must stay whole: in this pass a channel of it is an output, goes
        through an operation without a rule, or belongs with slices that the group does not
        have. And the layers that ran.
    """
    with torch.no_grad():
        trace = trace_pass(model, forward)
    channel_at = {
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
    held: dict[str, str] = {}
    for root, places in together.items():
        owners = {channel_at.get(place) for place in places}
        if root not in pinned and len(owners) == 1:  # all of one channel, or of no group at all
            continue
        for owner in owners - {None}:
            others = (name for name, *at in places if channel_at.get((name, *at)) != owner)
            held.setdefault(owner[0], pinned.get(root) or f'goes with {next(others)}')
    return held, trace.called


class _GraphBuilder:
    """Turns joined labels into groups of channels."""

    def __init__(self, model: nn.Module, trace: ChannelTrace):
        self.model = model
        self.trace = trace
        self.find = trace.labels.find
        self.order = {name: k for k, (name, _) in enumerate(model.named_modules())}
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.names = {tensor: name for name, tensor in tensors}
        self.sizes = {(n, d): size for n, t in tensors for d, size in enumerate(t.shape[:2])}
        self.read = {trace.source[labels[0]][:2] for labels in trace.readers.values()}

    def build(self) -> ChannelGraph:
        channels = self._groups(pinned=frozenset())  # before GroupNorms join what they share
        self.trace.join_norm_groups()
        reasons = self.trace.labels.reasons()
        groups = self._groups(pinned=reasons.keys())
        return ChannelGraph(groups, channels, self._skipped(groups, reasons), self.trace.norm_of)

    def _groups(self, *, pinned: Set[int]) -> dict[str, ChannelGroup]:
        groups = [self._group(units) for units in self._units_that_share_layers(pinned)]
        return {g.name: g for g in sorted(groups, key=lambda group: self.order[group.name])}

    def _units(self, pinned: Set[int]) -> list[list[tuple[str, int, int]]]:
        """The places of what goes together, where somebody writes and reads it; without what
        is pinned. In the order of the model: names and numbers of channels must be the same on all
        ranks and after a resume."""
        units: dict[int, list[int]] = {}
        for label in self.trace.source:
            root = self.find(label)
            if root not in pinned:
                units.setdefault(root, []).append(label)
        placed = []
        for labels in units.values():
            places = [self.trace.source[label] for label in labels]
            dims = {place[:2] for place in places}
            # what nobody reads is an output; what nobody writes comes in (pixels, a query)
            if dims & self.read and dims & self.trace.writes:
                written = (p for p in places if p[:2] in self.trace.writes)
                placed.append((min((self.order[_layer(n)], k) for n, _, k in written), places))
        return [places for _, places in sorted(placed, key=lambda unit: unit[0])]

    def _units_that_share_layers(self, pinned: Set[int]) -> list[list[list[tuple[str, int, int]]]]:
        """Units of one group: the same layers write them, which must not be left without."""
        units = self._units(pinned)
        joined = UnionFind()  # of units: those with a writer in common
        ids = joined.new(len(units))
        holder: dict[str, int] = {}
        for unit, places in zip(ids, units):
            for name, dim, _ in places:
                # apart, two groups might each take "all but one" of the same layer
                if (name, dim) in self.trace.writes:
                    joined.join_all((holder.setdefault(_layer(name), unit), unit), '')
        groups: dict[int, list] = {}
        for unit, places in zip(ids, units):
            groups.setdefault(joined.find(unit), []).append(places)
        return list(groups.values())

    def _group(self, units: list[list[tuple[str, int, int]]]) -> ChannelGroup:
        # (position, channel) pairs of each dimension of a tensor; what is the same in several
        # tensors of a layer (weight, bias, running statistics) becomes one member
        held: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for channel, places in enumerate(units):
            for name, dim, position in places:
                held.setdefault((name, dim), []).append((position, channel))
        slices: dict[tuple, list[tuple[str, int]]] = {}
        for (name, dim), pairs in held.items():
            side = (
                'writers'
                if (name, dim) in self.trace.writes
                else 'readers'
                if (name, dim) in self.read
                else 'channelwise'
            )
            index, channel = zip(*sorted(pairs))
            key = side, _layer(name), index, channel, self.sizes[name, dim]
            slices.setdefault(key, []).append((name.rpartition('.')[2], dim))
        members: dict[str, list[Member]] = {'writers': [], 'channelwise': [], 'readers': []}
        for (side, layer, index, channel, size), tensors in slices.items():
            members[side].append(Member(layer, index, channel, tuple(tensors), size))
        sides = {
            side: tuple(sorted(found, key=lambda member: self.order[member.layer]))
            for side, found in members.items()
        }
        return ChannelGroup(sides['writers'][0].layer, len(units), **sides)

    def _skipped(
        self, groups: dict[str, ChannelGroup], reason_of: dict[int, str]
    ) -> dict[str, str]:
        held: dict[tuple[str, int], int] = {}
        for group in groups.values():
            for member in group.members:
                for place in member.tensors:
                    held[place] = held.get(place, 0) + len(member.index)
        reasons: dict[tuple[str, int], str] = {}
        for label, (name, dim, _) in self.trace.source.items():
            reason = reason_of.get(self.find(label))
            if reason:  # one for the layer: the reason of its first channel that has any
                reasons.setdefault((name, dim), reason)
        skipped = {}
        for layer, module in self.model.named_modules():
            if not is_conv_or_linear(module):
                continue
            name = self.names.get(dict(module.named_parameters(recurse=False)).get('weight'))
            place = name, output_dim(module)
            size = self.sizes.get(place, 0)
            whole = size - held.get(place, 0)
            if layer not in self.trace.called:
                reason = NOT_REACHED
            elif name is None:
                reason = 'its weight is computed'
            else:
                reason = reasons.get(place, 'nobody reads it')
            if name is None or whole == size > 1:  # one channel is never a question
                skipped[layer] = reason
            elif whole and size > 1:
                skipped[layer] = f'{whole} of {size} channels: {reason}'
        return skipped


def _layer(tensor: str) -> str:
    return tensor.rpartition('.')[0]
