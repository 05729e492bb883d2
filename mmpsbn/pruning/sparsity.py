"""Collapsed filters of a model, by layer and in FLOPs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..functional.statistics import collapsed_mask
from ..upstream import NormBase
from .cost import Cost
from .graph import ChannelGraph, ChannelGroup


def scale_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Normalisation layers with one scale gamma per channel, by name: BatchNorm and
    InstanceNorm of any kind, GroupNorm."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (NormBase, nn.GroupNorm))
        and getattr(module, 'weight', None) is not None
    }


def begins_at_zero(layer: nn.Module) -> bool:
    """Whether a normalisation layer stands at an initialisation with gamma = 0, as the last one of
    each residual branch under ``zero_init_residual``: gamma of every channel is exactly 0, the
    bias of all the same (0, or a psBN's alpha) and the running statistics, where it has any,
    untouched. No training leaves a layer so.
    """
    if layer.weight.any() or (layer.bias is not None and (layer.bias != layer.bias[0]).any()):
        return False
    mean, var = getattr(layer, 'running_mean', None), getattr(layer, 'running_var', None)
    return mean is None or not (mean.any() or (var != 1).any())


def layers_at_zero(model: nn.Module) -> dict[str, int]:
    """Layer that :func:`begins_at_zero` -> its channels."""
    scales = scale_layers(model).items()
    return {name: len(layer.weight) for name, layer in scales if begins_at_zero(layer)}


@contextmanager
def scales_clamped(model: nn.Module, *, threshold: float) -> Iterator[None]:
    """Within, gamma = 0 of every collapsed filter (|gamma| < threshold); afterwards what it was.

    What a model scores within, against what it scores without, is what these filters still
    contribute (Frankle et al. figure 6). The bias stays.
    """
    layers = list(scale_layers(model).values())
    saved = {layer: layer.weight.detach().clone() for layer in layers}  # all, as some may be tied
    try:
        with torch.no_grad():
            for layer in layers:
                layer.weight[collapsed_mask(layer.weight, threshold=threshold)] = 0
        yield
    finally:
        with torch.no_grad():
            for layer, gamma in saved.items():
                layer.weight.copy_(gamma)


def idle_shares(idle: Mapping[str, Tensor], graph: ChannelGraph, cost: Cost) -> dict[str, float]:
    """Layer with MACs -> the share of its weights, hence of its MACs, that belongs to idle
    channels, as inputs or as outputs, in [0, 1].

    An output is idle where its own norm is, an input where every writer of it is (psBN paper
    section 3.1). Weighted with the MACs of the layers the mean is the FLOPs sparsity, with
    their weights the weight sparsity (DemP section 4).

    Args:
        idle: layer with channels of its own (a norm layer, or a writer that none follows) ->
            True where the channel is idle, shape (C,), bool.
        graph, cost: of the model as it is now.
    """
    outputs_gone = _idle_outputs(idle, graph)
    inputs_gone: dict[str, int] = {}
    for group in graph.groups.values():
        gone = _idle_in(group, outputs_gone)
        for reader in group.readers:
            count = int(gone[torch.tensor(reader.channel)].sum())
            inputs_gone[reader.layer] = inputs_gone.get(reader.layer, 0) + count
    shares = {}
    for name, inputs in cost.inputs_of.items():
        outputs = outputs_gone.get(name)
        # rows and columns of a weight go at once: what is left is a product, not a difference
        outputs_left = 1 if outputs is None else 1 - int(outputs.sum()) / len(outputs)
        shares[name] = 1 - (1 - inputs_gone.get(name, 0) / inputs) * outputs_left
    return shares


def removable_channels(idle: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """Layer -> which of its idle channels surgery could remove, shape (C,), bool: those of a
    group of which every writer is idle there, but for one where that is all of the group: no
    layer goes down to nothing. :func:`idle_shares` of these is what removing them saves.
    Arguments as there.
    """
    gone_of = _idle_outputs(idle, graph)
    removable = {name: torch.zeros_like(mask) for name, mask in gone_of.items()}
    for group in graph.groups.values():
        gone = _idle_in(group, gone_of)
        if gone.all():
            gone[0] = False  # as keep_mask_of does: of equal ones the lowest index stays
        for writer in group.writers:
            if writer.layer in removable:
                index, channel = torch.tensor(writer.index), torch.tensor(writer.channel)
                removable[writer.layer][index] = gone[channel]
    writer_of = {norm: writer for writer, norms in graph.norm_of.items() for norm in norms}
    nothing = {name: torch.zeros_like(mask) for name, mask in idle.items()}
    return {
        name: removable.get(writer_of.get(name, name), nothing[name]) & mask
        for name, mask in idle.items()
    }


def _idle_outputs(idle: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """``idle``, and by the convolution or linear layer that makes the channels."""
    return dict(idle) | {
        writer: torch.stack([idle[norm] for norm in norms]).all(0)
        for writer, norms in graph.norm_of.items()
        if all(norm in idle for norm in norms)
    }  # affine=False has no gamma


def _idle_in(group: ChannelGroup, gone_of: Mapping[str, Tensor]) -> Tensor:
    """The channels of a group that are idle in every writer, shape (channels,), bool."""
    gone = torch.ones(group.channels, dtype=torch.bool)
    for writer in group.writers:
        mask = gone_of.get(writer.layer)
        if mask is None:  # nothing scales this writer: its channels count as alive
            return torch.zeros_like(gone)
        # of several positions of one channel (GroupNorm's groups) all must have gone
        gone[torch.tensor(writer.channel)[~mask[torch.tensor(writer.index)]]] = False
    return gone
