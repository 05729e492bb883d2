"""Kill channels at random, and know for which of them it is certain that no reader sees them.

A census of one forward pass says where the output of each layer goes. It is made with other
means than the pruning engine's own graph, so that the two cannot share a mistake.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

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
        rectified: those of which only the ReLU is seen.
        inner: those that only plain layers see, through at most one activation that maps 0
            to 0.
        streams: layers whose outputs are added to each other and to nothing else.
    """

    widths: dict[str, int]
    rectified: set[str]
    inner: set[str]
    streams: list[tuple[str, ...]]


@dataclass(frozen=True)
class Planted:
    """Dead channels.

    Attributes:
        channels: layer -> its dead channels.
        certain: layer -> those that for certain no reader sees.
    """

    channels: dict[str, list[int]]
    certain: dict[str, list[int]]


class _Watch(TorchFunctionMode):
    """For each tensor, the layers it comes from with no other layer in between."""

    def __init__(self):
        super().__init__()
        self.sources: dict[int, frozenset[str]] = {}
        self.functions: dict[int, list[str]] = defaultdict(list)
        self.readers: dict[int, list[nn.Module]] = defaultdict(list)
        self.activated: dict[int, tuple[str, Tensor]] = {}  # by what function, to what
        self.sums: list[list[tuple[frozenset[str], torch.Size]]] = []
        self.layers_open = 0
        self._alive: list[Tensor] = []  # an id is a tensor's own as long as it lives

    def of(self, tensor: Tensor) -> frozenset[str]:
        return self.sources.get(id(tensor), frozenset())

    def mark(self, tensor: Tensor, sources: frozenset[str]) -> None:
        self.sources[id(tensor)] = sources
        self._alive.append(tensor)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = tensors_in([args, kwargs])
        before = [self.of(x) for x in inputs]
        output = func(*args, **kwargs)
        results = tensors_in(output)
        if self.layers_open or not results:  # a shape, a device
            return output
        name = getattr(func, '__name__', '')
        for x in inputs:
            self.functions[id(x)].append(name)
        if name in _ZERO_AT_ZERO:
            self.activated[id(inputs[0])] = name, output
        sources = frozenset().union(*before)
        if name in _ADDITIONS:
            terms = [(s, x.shape) for x, s in zip(inputs, before) if x.dim() > 1]
            if len(terms) > 1:
                self.sums.append(terms)
        elif sum(bool(s) for s in before) > 1:
            sources |= {_MIXED}
        for result in results:
            self.mark(result, sources)
        return output


def tensors_in(value) -> list[Tensor]:
    """The tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def take_census(model: nn.Module, forward: Callable[[nn.Module], object]) -> Census:
    """Run ``forward(model)`` once and note where the output of each layer goes."""
    watch = _Watch()
    outputs_of: dict[str, list[Tensor]] = defaultdict(list)
    norms_of: dict[str, set[str]] = defaultdict(set)  # source -> norms that read it
    writers_of: dict[str, set[str]] = defaultdict(set)  # norm -> sources
    sources_of: dict[nn.Module, set[str]] = defaultdict(set)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear, nn.LayerNorm, *_NORMS))
    }

    def enter(name):
        def note(module, args):
            sources = watch.of(args[0])
            watch.readers[id(args[0])].append(module)
            if isinstance(module, _NORMS):
                writers_of[name] |= sources
                for source in sources:
                    norms_of[source].add(name)
            else:
                sources_of[module] |= sources or {_MIXED}
            watch.layers_open += 1

        return note

    def leave(name):
        def note(module, args, output):
            watch.layers_open -= 1
            watch.mark(output, frozenset([name]))
            outputs_of[name].append(output)

        return note

    handles = [layer.register_forward_pre_hook(enter(name)) for name, layer in layers.items()]
    handles += [layer.register_forward_hook(leave(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), watch:
            results = tensors_in(forward(model))
    finally:
        for handle in handles:
            handle.remove()

    def activation(tensor: Tensor) -> tuple[str, Tensor] | None:
        """The activation of a tensor and its result, if nothing else takes the tensor."""
        name, result = watch.activated.get(id(tensor), ('', None))
        alone = len(watch.functions[id(tensor)]) == 1
        if name and alone and (result is tensor or not watch.readers[id(tensor)]):
            return name, result
        return None

    def plainly_read(tensor: Tensor) -> bool:
        """Whether only plain layers see it, or its activation, and they see nothing else."""
        name, result = activation(tensor) or ('', tensor)
        functions = watch.functions[id(result)]
        if name and result is tensor:
            functions = functions[1:]
        readers = watch.readers[id(result)]
        return not functions and all(is_plain(r) and len(sources_of[r]) == 1 for r in readers)

    read = set().union(*sources_of.values())
    widths = {
        name: _width(layers[name])
        for name in outputs_of
        if name in read and not norms_of[name] and not isinstance(layers[name], nn.LayerNorm)
    }
    shown = frozenset().union(*map(watch.of, results))
    rectified = {
        name
        for name in widths
        if all((activation(t) or ('',))[0] in _RELUS for t in outputs_of[name])
    }
    uses = Counter(p for m in model.modules() for p in m._parameters.values())

    def is_plain(layer: nn.Module) -> bool:
        """A convolution or linear layer that can lose any channel."""
        return (
            type(layer).forward in (nn.Conv2d.forward, nn.Linear.forward)
            and getattr(layer, 'groups', 1) == 1
            and uses[layer.weight] == 1
        )

    def is_inner(name: str) -> bool:
        if isinstance(layers[name], _NormBase):
            writers = writers_of[name]
            if len(writers) != 1 or any(norms_of[w] != {name} or w in read for w in writers):
                return False
            if any(watch.functions[id(t)] for w in writers for t in outputs_of.get(w, ())):
                return False
        else:
            writers = [name]
        if not all(w in layers and is_plain(layers[w]) for w in writers):
            return False
        return all(plainly_read(t) for t in outputs_of[name])

    inner = {name for name in widths if name not in shown and is_inner(name)}
    return Census(widths, rectified, inner, _streams(watch.sums, widths, set(shown)))


def _width(layer: nn.Module) -> int:
    if isinstance(layer, _NormBase):
        return layer.num_features
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else len(layer.weight)


def _streams(sums, widths, shown) -> list[tuple[str, ...]]:
    """Sets of layers that meet in additions; without those that meet anything else."""
    stream_of = {name: {name} for name in widths}
    spoiled = set(shown)
    for terms in sums:
        names = set().union(*(sources for sources, _ in terms))
        known = names & set(widths)
        merged = set().union(*(stream_of[name] for name in known))
        for name in merged:
            stream_of[name] = merged
        if (
            known != names
            or not all(sources for sources, _ in terms)
            or len({shape[1] for _, shape in terms} | {widths[name] for name in known}) > 1
        ):
            spoiled |= names
    streams = {tuple(sorted(stream)) for stream in stream_of.values() if len(stream) > 1}
    return sorted(stream for stream in streams if not spoiled & set(stream))


@torch.no_grad()
def plant_dead_channels_(model: nn.Module, census: Census, seed: int) -> Planted:
    """Kill about a quarter of the channels of a third of the layers, and of a third of the
    streams (at least one of each).

    A normalised channel dies through a scale of 0 and a bias of 0, or below 0 where only its
    ReLU is seen; a channel without a norm through its weight and bias. GroupNorm loses
    whole groups, as its channels share their statistics.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(share: float, number: int) -> list[int]:
        """Indices drawn with a probability; at least one, and never all."""
        chance = torch.rand(number, generator=generator)
        limit = max(share, float(chance.min()))
        return torch.nonzero(chance <= limit).flatten().tolist()[: max(1, number - 1)]

    dead: dict[str, set[int]] = defaultdict(set)
    certain: dict[str, set[int]] = defaultdict(set)
    names = sorted(name for name, width in census.widths.items() if width > 1)
    for i in draw(1 / 3, len(names)):
        layer = model.get_submodule(names[i])
        per_group = 1
        if isinstance(layer, nn.GroupNorm):
            per_group = layer.num_channels // layer.num_groups
        groups = draw(1 / 4, census.widths[names[i]] // per_group)
        channels = {g * per_group + k for g in groups for k in range(per_group)}
        dead[names[i]] |= channels
        if names[i] in census.inner:
            certain[names[i]] |= channels
    for i in draw(1 / 3, len(census.streams)) if census.streams else ():
        channels = set(draw(1 / 4, census.widths[census.streams[i][0]]))
        for name in census.streams[i]:
            dead[name] |= channels
            certain[name] |= channels
    for name, channels in dead.items():
        below_zero = name in census.rectified
        _kill_(model.get_submodule(name), sorted(channels), below_zero, generator)
    return Planted(*({n: sorted(c) for n, c in which.items()} for which in (dead, certain)))


def _kill_(layer: nn.Module, channels: list[int], below_zero: bool, generator) -> None:
    if layer.weight is not None:
        layer.weight[channels] = 0
    if layer.bias is not None:
        bias = torch.rand(len(channels), generator=generator, dtype=layer.bias.dtype)
        layer.bias[channels] = -(bias - 0.5).clamp_min(0) if below_zero else 0.0
