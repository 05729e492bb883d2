"""The channels of a model, by layer, with all that the papers look at.

What SparsityHook logs and the report shows is counted on this (``measures``, ``sparsity``): scales
and biases as they stand, and activations of what the layers behind read, from ``observation``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.activations import ActivationStatistics
from ..functional.statistics import filter_l1_norms
from .flow import Call, trace_readers
from .forward import ForwardFn, output_dim
from .graph import ChannelGraph, ChannelGroup, Member
from .sparsity import scale_layers


@dataclass(frozen=True)
class LayerChannels:
    """The C channels of one layer, on the CPU.

    Attributes:
        gamma: scales, shape (C,), float; None of a convolution or linear layer that no norm
            layer of its own follows.
        bias: effective biases b, shape (C,), float: beta, or beta + alpha of a psBN, or the
            layer's own; 0 without.
        writer: the convolution or linear layer that makes the channels; None where it is not
            this norm layer's alone, or was not traced.
        l1_norms: of the writer's filters, shape (C,); None without a writer.
        activations: of what the layers that read these channels first see of them, so after
            the addition in a residual stream; None where nothing was observed or nobody
            reads them.
    """

    gamma: Tensor | None
    bias: Tensor
    writer: str | None = None
    l1_norms: Tensor | None = None
    activations: ActivationStatistics | None = None


@dataclass(frozen=True)
class ChannelMap:
    """Where the channels of each layer go. Of a model as it is now: surgery makes it stale.

    Attributes:
        graph: what belongs together.
        readers: layer with channels of its own -> the calls that read them first; see
            :func:`trace_readers`.
    """

    graph: ChannelGraph
    readers: dict[str, tuple[Call, ...]]


def map_channels(
    model: nn.Module, graph: ChannelGraph, batch: Any, forward_fn: ForwardFn
) -> ChannelMap:
    """See :class:`ChannelMap`. Arguments as those of ``graph``."""
    normalised = set(graph.norm_of)
    writers = {member.layer for group in graph.channels.values() for member in group.writers}
    # a writer is followed at its norm, where its channels have their scale
    sources = scale_layers(model).keys() | (writers - normalised)
    return ChannelMap(graph, trace_readers(model, batch, forward_fn, sources=sources))


def take_census(
    model: nn.Module,
    channel_map: ChannelMap | None = None,
    observed: Mapping[Call, ActivationStatistics] | None = None,
) -> dict[str, LayerChannels]:
    """The channels of every norm layer with a scale, by name, in the model's order; with a map
    also those of convolutions and linear layers that no norm layer follows and another reads.

    Channels that can only go together (those of a group of a grouped convolution) share the
    activations of all of them.

    Args:
        channel_map: for ``writer``, ``l1_norms`` and ``activations``.
        observed: of :func:`observe_channels` with that map.
    """
    scales = scale_layers(model)
    names, writer_of = list(scales), {}
    if channel_map is not None:  # else nobody knows who writes what, or which layers are bare
        norm_of = channel_map.graph.norm_of
        writer_of = {norm: writer for writer, norms in norm_of.items() for norm in norms}
        bare = [name for name in channel_map.readers if name not in scales]
        writer_of |= {name: name for name in bare}
        order = {name: k for k, (name, _) in enumerate(model.named_modules())}
        names = sorted([*names, *bare], key=order.__getitem__)
    seen = {}
    if channel_map is not None and observed is not None:
        seen = _activations(model, names, channel_map, observed)
    vectors: dict[tuple[str, str], Tensor] = {}
    for name in names:
        layer = model.get_submodule(name)
        if name in scales:
            vectors[name, 'gamma'] = layer.weight
        size = layer.weight.size(0 if name in scales else output_dim(layer))
        vectors[name, 'bias'] = layer.weight.new_zeros(size) if layer.bias is None else layer.bias
        if name in writer_of:
            writer = model.get_submodule(writer_of[name])
            l1_norms = filter_l1_norms(writer.weight, channel_dim=output_dim(writer))
            vectors[name, 'l1_norms'] = l1_norms
    fields: dict[str, dict[str, Tensor]] = {name: dict(gamma=None) for name in names}
    for (name, field), vector in zip(vectors, _moved_at_once(list(vectors.values()))):
        fields[name][field] = vector
    return {
        name: LayerChannels(**of_layer, writer=writer_of.get(name), activations=seen.get(name))
        for name, of_layer in fields.items()
    }


def _moved_at_once(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Float32 copies on the CPU: SparsityHook asks every few iterations, and one transfer waits for
    the device once."""
    if not vectors:
        return []
    joined = torch.cat([vector.detach().float() for vector in vectors]).cpu()
    return joined.split([len(vector) for vector in vectors])


def _activations(
    model: nn.Module,
    names: Sequence[str],
    channel_map: ChannelMap,
    observed: Mapping[Call, ActivationStatistics],
) -> dict[str, ActivationStatistics]:
    found: dict[str, ActivationStatistics] = {}
    wanted = set(names)
    for group in channel_map.graph.channels.values():
        for own in (*group.writers, *group.channelwise):
            readers = channel_map.readers.get(own.layer)
            if own.layer not in wanted or not readers or not _holds_outputs(model, own):
                continue
            seen = _read_of(model, group, readers, observed)
            if seen is None:
                continue
            device = seen.peak.device
            # from channels of the group to positions of the layer: after a flatten or in a group
            # of a grouped convolution several positions are one channel
            index = torch.tensor(own.index, device=device)
            seen = seen.onto(torch.tensor(own.channel, device=device), index, own.size)
            held = found.get(own.layer)
            # parts of one layer may be in several groups; each leaves the others' positions empty
            found[own.layer] = seen if held is None else held.merged(seen)
    return {name: statistics.cpu() for name, statistics in found.items()}


def _holds_outputs(model: nn.Module, member: Member) -> bool:
    """Whether it is the member of the layer's weight, not of its bias."""
    return ('weight', output_dim(model.get_submodule(member.layer))) in member.slices


def _read_of(
    model: nn.Module,
    group: ChannelGroup,
    readers: Sequence[Call],
    observed: Mapping[Call, ActivationStatistics],
) -> ActivationStatistics | None:
    """What some calls see of a group's channels; several positions of one channel
    count as further samples of it."""
    merged = None
    for member in (*group.channelwise, *group.readers):
        calls = [call for call in readers if call[0] == member.layer]
        if not calls:
            continue
        index, channel = torch.tensor(member.index), torch.tensor(member.channel)
        if member in group.channelwise:  # a grouped convolution
            layer = model.get_submodule(member.layer)
            if ('weight', 0) not in member.slices or layer.transposed:
                continue  # its bias; and the inputs of a transposed one are pinned
            index, channel = _grouped_inputs(layer, index, channel)
        for call in calls:
            device = observed[call].peak.device
            seen = observed[call].onto(index.to(device), channel.to(device), group.channels)
            merged = seen if merged is None else merged.merged(seen)
    return merged


def _grouped_inputs(layer: nn.Module, index: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """(input position, channel of the group) of a grouped convolution, from those of its
    outputs: each of its groups belongs to one channel."""
    width = layer.in_channels // layer.groups
    block = index // (layer.out_channels // layer.groups)
    pairs = torch.stack([block, channel], 1).unique(dim=0)
    inputs = pairs[:, :1] * width + torch.arange(width)
    return inputs.flatten(), pairs[:, 1].repeat_interleave(width)
