"""Collapsed filters of a model, by layer and in FLOPs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..functional.statistics import collapsed_mask, flops_sparsity, weight_sparsity
from .cost import Cost
from .graph import ChannelGraph, ChannelGroup


def scale_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Normalisation layers with one scale gamma per channel, by name: BatchNorm and
    InstanceNorm of any kind, GroupNorm."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (_NormBase, nn.GroupNorm))
        and getattr(module, 'weight', None) is not None
    }


@dataclass(frozen=True)
class SparsityReport:
    """Collapsed filters (|gamma| < threshold) at one moment.

    Attributes:
        collapsed: norm layer -> (collapsed channels, channels).
        not_finite: norm layers with a NaN or infinite gamma; those channels are not
            counted as collapsed.
        flops_sparsity: 1 - MACs left / MACs if every collapsed filter were removed,
            in [0, 1]; None without a channel graph.
        weight_sparsity: the same of the weights of conv and linear layers.
    """

    collapsed: dict[str, tuple[int, int]]
    not_finite: list[str]
    flops_sparsity: float | None = None
    weight_sparsity: float | None = None

    @property
    def totals(self) -> tuple[int, int]:
        """(collapsed channels, channels) over all layers."""
        counts = self.collapsed.values()
        return sum(c for c, _ in counts), sum(n for _, n in counts)

    def table(self, only_collapsed: bool = False) -> str:
        """One line a layer: collapsed, channels, share."""
        rows = [(name, c, n) for name, (c, n) in self.collapsed.items() if c or not only_collapsed]
        width = max((len(name) for name, _, _ in rows), default=5)
        lines = [f'{"layer":<{width}}  collapsed  channels   share']
        lines += [f'{name:<{width}}  {c:>9}  {n:>8}  {c / n:>6.1%}' for name, c, n in rows]
        return '\n'.join(lines)


def measure_sparsity(
    model: nn.Module,
    *,
    threshold: float,
    graph: ChannelGraph | None = None,
    cost: Cost | None = None,
) -> SparsityReport:
    """Count collapsed filters. The gammas leave the device in one transfer.

    In FLOPs a filter counts as removed where its own norm has collapsed, and an input
    channel where every writer of it has (psBN paper section 3.1).

    Args:
        threshold: > 0, on |gamma|.
        graph, cost: of ``model`` as it is now, for ``flops_sparsity``.
    """
    layers = scale_layers(model)
    if not layers:
        return SparsityReport({}, [])
    sizes = [layer.weight.numel() for layer in layers.values()]
    joined = torch.cat([layer.weight.detach().float() for layer in layers.values()]).cpu()
    gammas = dict(zip(layers, joined.split(sizes)))
    masks = {name: collapsed_mask(g, threshold=threshold) for name, g in gammas.items()}
    report = dict(
        collapsed={n: (int(m.sum()), m.numel()) for n, m in masks.items()},
        not_finite=[n for n, g in gammas.items() if not g.isfinite().all()],
    )
    if graph is None:
        return SparsityReport(**report)
    left = _layers_left(masks, graph, cost)
    weights = {name: model.get_submodule(name).weight.numel() for name in left}
    return SparsityReport(
        **report,
        flops_sparsity=flops_sparsity((cost.macs_of[n], *kept) for n, kept in left.items()),
        weight_sparsity=weight_sparsity((weights[n], *kept) for n, kept in left.items()),
    )


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


def macs_at_stake(idle: Mapping[str, Tensor], graph: ChannelGraph, cost: Cost) -> dict[str, float]:
    """Convolution or linear layer -> its MACs that idle channels cost, as inputs and as outputs.

    Their sum over all MACs is the FLOPs sparsity of a model without these channels.

    Args:
        idle: layer with channels of its own (a norm layer, or a writer that none follows) ->
            True where the channel is idle, shape (C,), bool.
        graph, cost: of the model as it is now.
    """
    left = _layers_left(idle, graph, cost)
    return {name: cost.macs_of[name] * (1 - a * b) for name, (a, b) in left.items()}


def removable_channels(idle: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """Layer -> which of its idle channels surgery could remove, shape (C,), bool: those of a
    group of which every writer is idle there, but for one where that is all of the group: no
    layer goes down to nothing. :func:`macs_at_stake` of these is what removing them saves.
    Arguments as there.
    """
    gone_of = _idle_outputs(idle, graph)
    removable = {name: torch.zeros_like(mask) for name, mask in gone_of.items()}
    for group in graph.groups.values():
        gone = _idle_in(group, gone_of)
        if gone.all():
            gone[0] = False
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


def _layers_left(
    masks: Mapping[str, Tensor], graph: ChannelGraph, cost: Cost
) -> dict[str, tuple[float, float]]:
    """Layer that has MACs -> (input fraction left, output fraction left)."""
    out_gone = _idle_outputs(masks, graph)
    inputs_gone: dict[str, int] = {}
    for group in graph.groups.values():
        gone = _idle_in(group, out_gone)
        for reader in group.readers:
            inputs_gone[reader.layer] = inputs_gone.get(reader.layer, 0) + int(
                gone[torch.tensor(reader.channel)].sum()
            )
    left = {}
    for name in cost.macs_of:
        outputs_gone = out_gone.get(name)
        left[name] = (
            1 - inputs_gone.get(name, 0) / cost.inputs_of[name],
            1 - (0 if outputs_gone is None else int(outputs_gone.sum()) / len(outputs_gone)),
        )
    return left
