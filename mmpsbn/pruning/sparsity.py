"""Collapsed filters of a model, by layer and in FLOPs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..functional.statistics import collapsed_mask, flops_sparsity
from .cost import Cost
from .graph import ChannelGraph


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
    """

    collapsed: dict[str, tuple[int, int]]
    not_finite: list[str]
    flops_sparsity: float | None

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
        return SparsityReport({}, [], None)
    sizes = [layer.weight.numel() for layer in layers.values()]
    joined = torch.cat([layer.weight.detach().float() for layer in layers.values()]).cpu()
    gammas = dict(zip(layers, joined.split(sizes)))
    masks = {name: collapsed_mask(g, threshold=threshold) for name, g in gammas.items()}
    return SparsityReport(
        collapsed={n: (int(m.sum()), m.numel()) for n, m in masks.items()},
        not_finite=[n for n, g in gammas.items() if not g.isfinite().all()],
        flops_sparsity=None if graph is None else flops_sparsity(_layers_left(masks, graph, cost)),
    )


def _layers_left(masks: dict[str, Tensor], graph: ChannelGraph, cost: Cost):
    """(MACs, input fraction left, output fraction left) of each layer that has MACs."""
    out_gone = {
        writer: torch.stack([masks[norm] for norm in norms]).all(0)
        for writer, norms in graph.norm_of.items()
        if all(norm in masks for norm in norms)
    }  # affine=False has no gamma
    inputs_gone: dict[str, int] = {}
    for group in graph.groups.values():
        gone = torch.ones(group.channels, dtype=torch.bool)
        for writer in group.writers:
            mask = out_gone.get(writer.layer)
            if mask is None:  # nothing scales this writer: its channels count as alive
                gone.zero_()
                break
            channel = torch.tensor(writer.channel)
            gone[channel] &= mask[torch.tensor(writer.index)]
        for reader in group.readers:
            inputs_gone[reader.layer] = inputs_gone.get(reader.layer, 0) + int(
                gone[torch.tensor(reader.channel)].sum()
            )
    for name, macs in cost.macs_of.items():
        outputs_gone = out_gone.get(name)
        yield (
            macs,
            1 - inputs_gone.get(name, 0) / cost.inputs_of[name],
            1 - (0 if outputs_gone is None else int(outputs_gone.sum()) / len(outputs_gone)),
        )
