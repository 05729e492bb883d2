"""What belongs together: channel groups from an autograd trace.

The only importer of ``torch_pruning``, whose DependencyGraph is used for the graph
alone. The trace runs on a copy of the model: torch_pruning leaves the model in eval
mode, mmdet's backbones freeze their first stages again inside ``eval()``, a frozen
layer has no autograd node, and psBN's ``beta + alpha`` would be one.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..layers import PostShift, convert_from_psbn

ForwardFn = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Member:
    """The part of a layer that a group's channels occupy.

    ``index[k]`` is the position in the layer that belongs to channel ``channel[k]``
    of the group. Writers are indexed by output channel, norms by feature, readers by
    input channel (after a flatten one channel has several).
    """

    layer: str
    index: tuple[int, ...]
    channel: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together, named after their first writer."""

    name: str
    channels: int
    writers: tuple[Member, ...]
    norms: tuple[Member, ...]
    readers: tuple[Member, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """The prunable groups of a model, why others are not, and who normalises whom.

    Attributes:
        groups: by name.
        skipped: name of the first writer -> reason it is left whole.
        norm_of: conv or linear layer -> the norm layers that read it directly (several
            where the layer is shared between levels that have their own).
    """

    groups: dict[str, ChannelGroup]
    skipped: dict[str, str]
    norm_of: dict[str, tuple[str, ...]]


def _traceable_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    if any(isinstance(m, PostShift) for m in model.modules()):
        model = convert_from_psbn(model)
    for module in model.modules():
        if hasattr(module, 'frozen_stages'):
            module.frozen_stages = -1
        # activation checkpointing hides what is inside it from the trace
        if hasattr(module, 'with_cp'):
            module.with_cp = False
        module.__dict__.pop('forward', None)
    model.eval()  # mmdet's backbones return None from it
    return model.requires_grad_(True)


def _plain_forward(module: nn.Module, kind: type) -> bool:
    return isinstance(module, kind) and type(module).forward is kind.forward


def _refusal(module: nn.Module) -> str | None:
    """Why a layer cannot lose single channels without changing what is left."""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return 'grouped convolution'
    if isinstance(module, nn.GroupNorm):
        return 'GroupNorm: its statistics join the channels of a group'
    if isinstance(module, _NormBase) and not module.affine and not module.track_running_stats:
        return f'{type(module).__name__} without a tensor to slice'
    if (
        _plain_forward(module, nn.Conv2d)
        or _plain_forward(module, nn.Linear)
        or isinstance(module, _NormBase)
    ):
        return None
    return f'no rule for {type(module).__name__}'


class _Reader:
    """Reads torch_pruning's graph of the traced copy into plain data."""

    def __init__(self, graph, model: nn.Module):
        self.graph = graph
        self.name_of = {module: name for name, module in model.named_modules()}
        self.owners = Counter(p for module in model.modules() for p in module._parameters.values())

    def norm_of(self) -> dict[str, tuple[str, ...]]:
        pairs: dict[str, list[str]] = {}
        for module, node in self.graph.module2node.items():
            if isinstance(module, (_NormBase, nn.GroupNorm)):
                for source in node.inputs:
                    writer = self.name_of.get(source.module)
                    if writer is not None:
                        pairs.setdefault(writer, []).append(self.name_of[module])
        return {writer: tuple(dict.fromkeys(norms)) for writer, norms in pairs.items()}

    def _ownership(self, module: nn.Module) -> str | None:
        """Why a layer's weight is not its own to slice."""
        weight = getattr(module, 'weight', None)
        if weight is None or self.owners[weight] == 1:
            return None
        if self.owners[weight] > 1:
            return 'shares its weight with another layer'
        return 'its weight is computed (weight norm, a parametrization)'

    def read(self, items) -> ChannelGroup:
        """The group as plain data. ValueError, with the reason, if it must stay whole."""
        root = items[0].dep.target.module
        channels = len(items[0].idxs)
        members: dict[str, list[Member]] = {'writers': [], 'norms': [], 'readers': []}
        for item in items:
            module = item.dep.target.module
            if module not in self.name_of:
                if isinstance(module, nn.Parameter):
                    raise ValueError('reads a bare parameter')
                continue  # element-wise, concat, split, reshape: no weights
            name = self.name_of[module]
            reason = _refusal(module) or self._ownership(module)
            if reason:
                raise ValueError(f'{name}: {reason}')
            if isinstance(module, _NormBase):
                side, size = 'norms', module.num_features
            elif self.graph.is_out_channel_pruning_fn(item.dep.handler):
                side, size = 'writers', module.weight.size(0)
            else:
                side, size = 'readers', module.weight.size(1)
            complete = sorted(item.idxs) == list(range(size))
            in_range = max(item.idxs) < size and max(item.root_idxs) < channels
            if not in_range or (side == 'writers' and not complete):
                raise ValueError(
                    f'{name}: {len(item.idxs)} of its {size} channels are coupled, not all'
                )
            members[side].append(Member(name, tuple(item.idxs), tuple(item.root_idxs)))
        if not members['readers']:
            raise ValueError('an output of the model: nobody reads it')
        return ChannelGroup(
            self.name_of[root], channels, **{side: tuple(m) for side, m in members.items()}
        )


def trace_channel_graph(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> ChannelGraph:
    """Trace ``forward_fn(model, batch)`` and group the channels that go together.

    The model is not touched. A group is left whole, with the reason in ``skipped``,
    if it holds a layer without a rule (grouped convolutions, GroupNorm, unknown
    modules), is an output of the model, or if the trace couples only part of a
    writer's channels (as the zero-padded shortcuts of CIFAR ResNets do).

    Args:
        batch: what ``forward_fn`` takes; one small sample is enough.
        forward_fn: returns tensors, in any nesting, with a gradient.

    Raises:
        RuntimeError: the forward pass failed; the original error is chained.
    """
    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # unwrapped parameters are refused below
        try:
            traced = _traceable_copy(model)
            graph.build_dependency(traced, batch, forward_fn=forward_fn, verbose=False)
        except Exception as error:
            raise RuntimeError(
                f'cannot trace {type(model).__name__} ({type(error).__name__}: {error})'
            ) from error
        reader = _Reader(graph, traced)
        groups, skipped = {}, {}
        for items in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
            name = reader.name_of[items[0].dep.target.module]
            try:
                groups[name] = reader.read(items)
            except ValueError as reason:
                skipped[name] = str(reason)
        for module, name in reader.name_of.items():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in graph.module2node:
                skipped[name] = 'not reached by the trace'
    return ChannelGraph(groups, skipped, reader.norm_of())
