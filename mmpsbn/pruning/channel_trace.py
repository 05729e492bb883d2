"""What is known of channels while a model runs: labels, and who writes, reads and normalises them.

Each slice of a parameter along one of its first two dimensions has a label, and a tensor
carries, for each of its dimensions, the labels of the slices its positions come from. A
convolution joins the labels of its input channels with those of its weight's input
dimension and puts the labels of the weight's output dimension on its output; an addition
joins what it adds; a concatenation, a reshape or a channel shuffle moves labels.

``tracing`` runs the model and calls a rule for each operation; rules say here what it did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .forward import input_channel_dim
from .union_find import FIXED, UnionFind, Vector

# dimension -> label of each position; a dimension of size 1 never carries labels
Axes = dict[int, Vector]
ModuleRule = Callable[['ChannelTrace', nn.Module, tuple, Any], None]


@dataclass(frozen=True)
class Frame:
    """A module whose forward pass is running. ``args``: of a layer, those passed by name too."""

    name: str
    module: nn.Module
    args: tuple
    rule: ModuleRule | None


class ChannelTrace:
    """What forward passes of a model tell of its channels.

    Attributes:
        labels: all labels, and which go together.
        source: label -> (parameter or buffer, dimension, position).
        writes: (parameter or buffer, dimension) that make channels.
        readers: layer -> labels of its weight's input dimension, by position.
        called: layers that ran.
        stack: the modules that are running, the innermost last.
        computed: all labels that were put on tensors so far, in that order.
        noted: whose read by the present operation is known.
        chunking: whether the present operation is part of a ``chunk``.
    """

    def __init__(self, model: nn.Module):
        self.labels = UnionFind()
        self.source: dict[int, tuple[str, int, int]] = {}
        self.writes: set[tuple[str, int]] = set()
        self.readers: dict[str, Vector] = {}
        self.called: set[str] = set()
        self.stack: list[Frame] = []
        self.computed: list[Vector] = []
        self.noted: Tensor | None = None
        self.chunking = False
        self._reads: dict[str, dict[str, None]] = {}  # writer -> norms; '' is anything else
        self._normalised: dict[str, set[str]] = {}  # norm -> writers; '' is anything else
        self._norm_groups: list[tuple[Vector, str]] = []  # and the GroupNorm
        # Weak, and by identity: a dead tensor's labels must not pass to the next at its address.
        self._static = WeakTensorKeyDictionary()  # axes of parameters and buffers
        self._axes = WeakTensorKeyDictionary()  # axes of what is computed
        self._writer = WeakTensorKeyDictionary()  # output of a conv or linear layer -> its name
        self._label_tensors(model)

    def _label_tensors(self, model: nn.Module) -> None:
        owners: dict[Tensor, int] = {}
        for module in model.modules():
            own = dict(recurse=False, remove_duplicate=False)
            for _, tensor in (*module.named_parameters(**own), *module.named_buffers(**own)):
                owners[tensor] = owners.get(tensor, 0) + 1
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            axes = {}
            for dim, size in enumerate(tensor.shape[:2]):
                if size > 1:
                    axes[dim] = self.labels.new(size)
                    for position, label in enumerate(axes[dim]):
                        self.source[label] = name, dim, position
                    # Two owners may read it along different dimensions: to cut it for one would
                    # cut it for the other.
                    if owners[tensor] > 1:
                        self.labels.pin(axes[dim], f'{name}: shared with another layer')
            self._static[tensor] = axes
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its sizes are compiled
                for tensor in (*module.parameters(), *module.buffers()):
                    for vector in self.axes(tensor).values():
                        self.labels.pin(vector, f'{name}: compiled by TorchScript')

    @property
    def norm_of(self) -> dict[str, tuple[str, ...]]:
        """Writer -> the norm layers that read it directly; of those whose output nothing but norms
        of their own reads."""
        return {
            writer: tuple(norms)
            for writer, norms in self._reads.items()
            if '' not in norms and all(self._normalised[norm] == {writer} for norm in norms)
        }

    # --- what rules use ---------------------------------------------------------------

    def axes(self, tensor: Tensor) -> Axes:
        """The labels that a tensor carries."""
        axes = self._static.get(tensor)
        return self._axes.get(tensor, {}) if axes is None else axes

    def put(self, tensor: Tensor, axes: Axes) -> None:
        """Say which labels a computed tensor carries."""
        self._axes[tensor] = {d: v for d, v in axes.items() if tensor.shape[d] > 1 and any(v)}
        self.computed.extend(self._axes[tensor].values())

    def alive(self) -> set[Vector]:
        """The labels on all tensors that are computed and not yet gone."""
        return {vector for axes in self._axes.values() for vector in axes.values()}

    def forget(self, tensor: Tensor) -> None:
        """Say that nothing is known of a computed tensor any more."""
        self._axes.pop(tensor, None)

    def where(self) -> str:
        """The layer that is running."""
        return self.stack[-1].name if self.stack else ''

    @property
    def running(self) -> nn.Module | None:
        """The module of that layer."""
        return self.stack[-1].module if self.stack else None

    def pin_labels(self, labels: Vector, reason: str) -> None:
        """Leave these whole, with the reason and the layer that is running."""
        where = self.where()
        self.labels.pin(labels, f'{where}: {reason}' if where else reason)

    def pin(self, tensor: Tensor, reason: str, dims: list[int] | None = None) -> None:
        """Leave whole what a tensor carries, along some dimensions or all."""
        for dim, vector in self.axes(tensor).items():
            if dims is None or dim in dims:
                self.pin_labels(vector, reason)

    def join(self, ours: Vector | None, theirs: Vector | None, reason: str) -> Vector | None:
        """Join two dimensions of one size; one without labels pins the other, as its tensor has
        a fixed size there."""
        if ours is None or theirs is None:
            self.pin_labels(ours or theirs or (), reason)
        else:
            where = self.where()
            self.labels.join(ours, theirs, f'{where}: {reason}' if where else reason)
        return ours or theirs

    def contract(self, inputs: Tensor, dim: int, weight: Tensor, weight_dim: int) -> None:
        """Channels are read: a sum over ``inputs``' dimension and ``weight``'s."""
        ours, theirs = self.axes(inputs).get(dim), self.axes(weight).get(weight_dim)
        self.join(ours, theirs, 'reads a fixed number of channels')
        if ours is None or theirs is None:
            return
        # A hook on the layer sees what the layer is given. That must be what is summed over here,
        # channel by channel: else a pruner that watches sees something else than what is read.
        watched = self.stack[-1].args[:1] if self._is_own_weight(theirs) else ()
        if (
            watched
            and isinstance(watched[0], Tensor)
            and self.axes(watched[0]).get(watched[0].dim() + input_channel_dim(weight)) == ours
        ):
            self.readers[self.where()] = theirs
        else:
            self.pin_labels(ours, 'a product that is not a layer of its own')

    def _is_own_weight(self, vector: Vector | None) -> bool:
        """Whether these are labels of the weight of the layer that is running."""
        own = f'{self.where()}.weight'.lstrip('.')
        return (
            bool(self.stack)
            and vector is not None
            and FIXED not in vector
            and {self.source[label][0] for label in vector} == {own}
        )

    def convolve(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output: Tensor,
        *,
        dim: int = 1,
        in_dim: int = 1,
        out_dim: int = 0,
        groups: int = 1,
    ) -> None:
        """A convolution or linear layer.

        Args:
            dim: of the channels in ``inputs`` and ``output``.
            in_dim, out_dim: of the channels in ``weight``.
            groups: of a grouped convolution. A group's channels go all together, those it
                reads and those it writes; for a depthwise one that is each channel.
        """
        made = self.axes(weight).get(out_dim)
        if groups == 1:
            self.contract(inputs, dim, weight, in_dim)
            self._note_writer(made)
        else:
            self.pin(weight, 'grouped convolution', dims=[in_dim])
            if out_dim != 0:  # its weight lists the input channels, all groups in one dimension
                self.pin_labels(made or (), 'grouped transposed convolution')
                self.pin(inputs, 'grouped transposed convolution', dims=[dim])
                made = None
            else:
                self.join_blocks(self.axes(inputs).get(dim), made, groups, 'grouped convolution')
                if not (self._is_own_weight(made) and hasattr(self.running, 'groups')):
                    self.pin_labels(made or (), 'a fixed number of groups')
        if bias is not None and bias.dim() > 1:
            self.pin(bias, 'added to a matrix product')
            self.pin_labels(made or (), 'added to a matrix product')
        elif bias is not None:  # it writes as well: b where all that is read is 0
            shift = self.axes(bias).get(0)
            self.join(made, shift, 'its bias has a fixed size')
            if groups == 1:  # a grouped convolution passes channels on and makes none
                self._note_writer(shift)
        rest = {d: v for d, v in self.axes(inputs).items() if d != dim}
        if output.dim() > 2:  # rows of a matrix product stay rows
            self.pin(inputs, 'a convolution over channels', dims=list(rest))
            rest = {}
        self.put(output, rest | ({} if made is None else {dim: made}))
        self._writer[output] = self.where()

    def _note_writer(self, made: Vector | None) -> None:
        self.writes.update(self.source[label][:2] for label in made or () if label != FIXED)

    def join_blocks(
        self, ours: Vector | None, theirs: Vector | None, blocks: int, reason: str
    ) -> None:
        """Join two vectors block by block: what is in a block goes together."""
        if ours is None or theirs is None:
            self.pin_labels(ours or theirs or (), f'{reason} of channels that are fixed')
            return
        a, b = len(ours) // blocks, len(theirs) // blocks
        for k in range(blocks):
            block = ours[k * a : (k + 1) * a] + theirs[k * b : (k + 1) * b]
            self.labels.join_all(block, f'{self.where()}: {reason}')

    def note_norm_groups(self, vector: Vector, groups: int) -> None:
        """Remember which channels share the statistics of a GroupNorm.

        They are joined at the end alone: for what is observed each of them is still a channel.
        """
        size = len(vector) // groups
        blocks = (vector[k * size : (k + 1) * size] for k in range(groups))
        self._norm_groups += [(block, self.where()) for block in blocks]

    def join_norm_groups(self) -> None:
        """Of what shares statistics nothing can go alone."""
        for group, where in self._norm_groups:
            self.labels.join_all(group, f'{where}: GroupNorm')

    def normalise(self, inputs: Tensor, dim: int, vectors: list[Tensor | None]) -> None:
        """Each channel has its own scale, offset and statistics."""
        for tensor in vectors:
            if tensor is not None:
                self.join(
                    self.axes(inputs).get(dim),
                    self.axes(tensor).get(0),
                    'normalises fixed channels',
                )
        self.note_norm(inputs)

    def note_norm(self, inputs: Tensor) -> None:
        """Remember that the layer that is running normalises another one's output."""
        self._normalised.setdefault(self.where(), set()).add(self._writer.get(inputs, ''))
        self.note_read(inputs, self.where())
        self.noted = inputs

    def note_read(self, tensor: Tensor, reader: str) -> None:
        writer = self._writer.get(tensor)
        if writer is not None:
            self._reads.setdefault(writer, {})[reader] = None

    def same_writer(self, output: Tensor, inputs: Tensor) -> None:
        """A reshaped output of a layer still is that layer's; to reshape is not to read."""
        if inputs in self._writer:
            self._writer[output] = self._writer[inputs]
            self.noted = inputs
