"""Where the output of each layer goes, from one forward pass.

Made with other means than the pruning engine's own graph, so that the two cannot share a
mistake: tensors are told apart by their identity, and a layer's output is followed for one
activation and through additions only.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from mmpsbn.pruning.forward import tensors_in

_NORMS = (_NormBase, nn.GroupNorm)
_ADDITIONS = {'add', 'add_', '__add__', '__radd__', '__iadd__'}
_RELUS = {'relu', 'relu_', 'relu6'}
_ZERO_AT_ZERO = _RELUS | {'leaky_relu', 'silu', 'gelu', 'hardswish', 'hardtanh', 'elu', 'dropout'}
_MIXED = '*'  # a source beside others: concatenated, gated


@dataclass(frozen=True)
class Census:
    """Where the output of each layer goes.

    Attributes:
        widths: layer that can be planted (a BatchNorm or GroupNorm, or a convolution or
            linear layer without one) -> its channels.
        unit_sizes: the same -> how many neighbouring channels can only go together, as
            GroupNorm and grouped convolutions have it.
        rectified: those of which only the ReLU is seen.
        inner: those that only plain layers see, through at most one activation that maps 0
            to 0.
        streams: layers whose outputs are added to each other and to nothing else, and whose
            sum only plain layers read.
    """

    widths: dict[str, int]
    unit_sizes: dict[str, int]
    rectified: set[str]
    inner: set[str]
    streams: list[tuple[str, ...]]


def take_census(model: nn.Module, forward: Callable[[nn.Module], object]) -> Census:
    """Run ``forward(model)`` once and note where the output of each layer goes."""
    watch = _Watch(model)
    outputs = watch.run(forward)
    widths = {
        name: _width(watch.layers[name])
        for name in watch.outputs_of
        if name in watch.read
        and not watch.norms_of[name]
        and not isinstance(watch.layers[name], nn.LayerNorm)
    }
    not_alone = {name for name in widths if watch.writer_of(name) is None}
    return Census(
        widths,
        {name: watch.unit_size(name) for name in widths},
        {name for name in widths if watch.is_rectified(name)},
        {name for name in widths if name not in outputs and watch.is_inner(name)},
        _streams(watch.sums, widths, outputs | not_alone | watch.seen_by_others()),
    )


class _Watch(TorchFunctionMode):
    """What happens to each tensor during a forward pass.

    Tensors are keyed by id. A tensor's sources are the layers it comes from with no other
    layer in between.

    Attributes:
        layers: by name.
        outputs_of: layer -> what it returned, call by call.
        norms_of: layer -> norms that read it. writers_of: norm -> layers that it reads.
        sources_of: any other layer -> layers that it reads.
        sums: the terms of each addition, as (sources, shape).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (_ConvNd, nn.Linear, nn.LayerNorm, *_NORMS))
        }
        self.outputs_of: dict[str, list[Tensor]] = defaultdict(list)
        self.norms_of: dict[str, set[str]] = defaultdict(set)
        self.writers_of: dict[str, set[str]] = defaultdict(set)
        self.sources_of: dict[nn.Module, set[str]] = defaultdict(set)
        self.sums: list[list[tuple[frozenset[str], torch.Size]]] = []
        self._model = model
        self._uses = Counter(p for m in model.modules() for p in m._parameters.values())
        self._sources: dict[int, frozenset[str]] = {}
        self._functions: dict[int, list[str]] = defaultdict(list)  # that take a tensor
        self._readers: dict[int, list[nn.Module]] = defaultdict(list)
        self._activated: dict[int, tuple[str, Tensor]] = {}  # by which function, to what
        self._layers_open = 0
        self._alive: list[Tensor] = []  # an id is a tensor's own as long as it lives

    def run(self, forward: Callable[[nn.Module], object]) -> set[str]:
        """Watch one pass. Returns the sources of its outputs."""
        handles = []
        for name, layer in self.layers.items():
            handles.append(layer.register_forward_pre_hook(self._entering(name)))
            handles.append(layer.register_forward_hook(self._leaving(name)))
        try:
            with torch.no_grad(), self:
                outputs = list(tensors_in(forward(self._model)))
        finally:
            for handle in handles:
                handle.remove()
        return set().union(*map(self._of, outputs))

    def _of(self, tensor: Tensor) -> frozenset[str]:
        return self._sources.get(id(tensor), frozenset())

    def _mark(self, tensor: Tensor, sources: frozenset[str]) -> None:
        self._sources[id(tensor)] = sources
        self._alive.append(tensor)

    def _entering(self, name: str):
        def note(layer, args) -> None:
            self._layers_open += 1
            self._readers[id(args[0])].append(layer)
            sources = self._of(args[0])
            if isinstance(layer, _NORMS):
                self.writers_of[name] |= sources
                for source in sources:
                    self.norms_of[source].add(name)
            else:
                self.sources_of[layer] |= sources or {_MIXED}

        return note

    def _leaving(self, name: str):
        def note(layer, args, output) -> None:
            self._layers_open -= 1
            self._mark(output, frozenset([name]))
            self.outputs_of[name].append(output)

        return note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = list(tensors_in([args, kwargs]))
        before = [self._of(x) for x in inputs]
        output = func(*args, **kwargs)
        results = list(tensors_in(output))
        if self._layers_open or not results:  # a layer's own arithmetic; a shape, a device
            return output
        name = getattr(func, '__name__', '')
        for x in inputs:
            self._functions[id(x)].append(name)
        if name in _ZERO_AT_ZERO:
            self._activated[id(inputs[0])] = name, output
        sources = frozenset().union(*before)
        if name in _ADDITIONS:
            terms = [(s, x.shape) for x, s in zip(inputs, before) if x.dim() > 1]
            if len(terms) > 1:
                self.sums.append(terms)
        elif sum(bool(s) for s in before) > 1:
            sources |= {_MIXED}
        for result in results:
            self._mark(result, sources)
        return output

    @property
    def read(self) -> set[str]:
        """Layers that a convolution or linear layer reads."""
        return set().union(*self.sources_of.values())

    def seen_by_others(self) -> set[str]:
        """Layers that others than plain ones read."""
        readers = (s for layer, s in self.sources_of.items() if not self._is_plain(layer))
        normed = {name for name, norms in self.norms_of.items() if norms}
        return normed.union(*readers)

    def _is_plain(self, layer: nn.Module) -> bool:
        """Whether it can lose any channel: an ungrouped convolution or linear layer."""
        return (
            type(layer).forward in (nn.Conv2d.forward, nn.Linear.forward)
            and getattr(layer, 'groups', 1) == 1
            and self._uses[layer.weight] == 1
        )

    def _activation(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """The activation of a tensor and its result, if nothing else takes the tensor."""
        name, result = self._activated.get(id(tensor), ('', None))
        alone = len(self._functions[id(tensor)]) == 1
        if name and alone and (result is tensor or not self._readers[id(tensor)]):
            return name, result
        return None

    def is_rectified(self, name: str) -> bool:
        return all((self._activation(t) or ('',))[0] in _RELUS for t in self.outputs_of[name])

    def writer_of(self, name: str) -> str | None:
        """The layer that makes a layer's channels: itself, or the one that a norm reads and
        nobody else does."""
        if not isinstance(self.layers[name], _NORMS):
            return name
        writers = self.writers_of[name]
        if len(writers) != 1 or not writers <= self.layers.keys():
            return None
        (writer,) = writers
        others = [f for t in self.outputs_of[writer] for f in self._functions[id(t)]]
        if others or self.norms_of[writer] != {name} or writer in self.read:
            return None
        return writer

    def is_inner(self, name: str) -> bool:
        writer = self.writer_of(name)
        return (
            writer is not None
            and self._is_plain(self.layers[writer])
            and not isinstance(self.layers[name], nn.GroupNorm)
            and all(self._is_plainly_read(t) for t in self.outputs_of[name])
        )

    def unit_size(self, name: str) -> int:
        """How many neighbouring channels can only go together."""
        layer, writer = self.layers[name], self.writer_of(name)
        size = 1
        if isinstance(layer, nn.GroupNorm):
            size = layer.num_channels // layer.num_groups
        groups = getattr(self.layers.get(writer), 'groups', 1)
        return max(size, _width(layer) // groups) if groups > 1 else size

    def _is_plainly_read(self, tensor: Tensor) -> bool:
        """Whether only plain layers see it, or its activation, and they see nothing else."""
        name, result = self._activation(tensor) or ('', tensor)
        functions = self._functions[id(result)]
        if name and result is tensor:
            functions = functions[1:]
        readers = self._readers[id(result)]
        return not functions and all(
            self._is_plain(reader) and len(self.sources_of[reader]) == 1 for reader in readers
        )


def _width(layer: nn.Module) -> int:
    if isinstance(layer, _NormBase):
        return layer.num_features
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else len(layer.weight)


def _streams(sums, widths: dict[str, int], spoiled: set[str]) -> list[tuple[str, ...]]:
    """Sets of layers that meet in additions; without those that meet anything else."""
    stream_of = {name: {name} for name in widths}
    for terms in sums:
        names = set().union(*(sources for sources, _ in terms))
        known = names & set(widths)
        merged = set().union(*(stream_of[name] for name in known))
        for name in merged:
            stream_of[name] = merged
        channels = {shape[1] for _, shape in terms} | {widths[name] for name in known}
        if known != names or not all(sources for sources, _ in terms) or len(channels) > 1:
            spoiled = spoiled | names
    streams = {tuple(sorted(stream)) for stream in stream_of.values() if len(stream) > 1}
    return sorted(stream for stream in streams if not spoiled & set(stream))
