"""How channels run through a model: labels carried along by every operation.

Each slice of a parameter along one of its first two dimensions has a label, and a tensor
carries, for each of its dimensions, the labels of the slices its positions come from. A
convolution joins the labels of its input channels with those of its weight's input
dimension and puts the labels of the weight's output dimension on its output; an addition
joins what it adds; a concatenation, a reshape or a channel shuffle moves labels. An
operation without a rule pins the labels of all it reads: what is not understood is left
whole.

Operations are seen below autograd, as PyTorch's dispatcher runs them, so it does not
matter how a model is written, which parameters are frozen or whether activations are
checkpointed.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..upstream import TorchDispatchMode, base_of, schema_of
from .forward import input_channel_dim, is_conv_or_linear, tensors_in
from .labels import FIXED, LabelTable, Vector
from .op_rules import FACTORIES, RULES, join_pointwise

# dimension -> label of each position; a dimension of size 1 never carries labels
Axes = dict[int, Vector]
ModuleRule = Callable[['ChannelTrace', nn.Module, tuple, Any], None]

_MODULE_RULES: dict[type, ModuleRule] = {}


def register_module_rule(module_type: type, rule: ModuleRule) -> None:
    """Tell the tracer what a module does that computes out of PyTorch's sight.

    Args:
        module_type: matched with ``isinstance``.
        rule: ``rule(trace, module, args, output)``, called after each forward pass in place
            of the operations that the module runs itself; its children's are seen.
            :meth:`ChannelTrace.convolve` and :meth:`ChannelTrace.put` say what most need.
    """
    _MODULE_RULES[module_type] = rule


def _rule_of(module: nn.Module) -> ModuleRule | None:
    for module_type, rule in _MODULE_RULES.items():
        if isinstance(module, module_type):
            return rule
    return None


def _memory_of(tensor: Tensor) -> list[Tensor]:
    """The tensor, and the one it is a view of."""
    base = base_of(tensor)
    return [tensor] if base is None else [tensor, base]


@dataclass(frozen=True)
class Op:
    """One operation as it ran. ``args``: by the names of its schema."""

    name: str
    args: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class _Frame:
    """A module whose forward pass is running. ``args``: of a layer, those passed by name too."""

    name: str
    module: nn.Module
    args: tuple
    rule: ModuleRule | None


# what reads a tensor's memory without the dispatcher
_LEAVE_TORCH = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)


class _AboveDispatch(TorchFunctionMode):
    """Notices what the dispatcher does not: ``chunk``, which it sees as a split into fixed
    sizes though it divides whatever width it gets, and tensors that leave PyTorch."""

    chunking = False

    def __init__(self, leaves: Callable[[Tensor], None]):
        super().__init__()
        self._leaves = leaves

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.chunking = func in (torch.chunk, Tensor.chunk)
        if func in _LEAVE_TORCH:
            self._leaves(args[0])
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.chunking = False


class ChannelTrace(TorchDispatchMode):
    """Carries labels through forward passes of a model.

    Attributes:
        labels: the table of all labels.
        source: label -> (parameter or buffer, dimension, position).
        writes: (parameter or buffer, dimension) that make channels.
        readers: layer -> labels of its weight's input dimension, by position.
        norm_of: conv or linear layer -> the norm layers that read it directly; of those whose
            output nothing but norms of their own reads.
        called: layers that ran.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.labels = LabelTable()
        self.source: dict[int, tuple[str, int, int]] = {}
        self.writes: set[tuple[str, int]] = set()
        self.readers: dict[str, Vector] = {}
        self._reads: dict[str, dict[str, None]] = {}  # writer -> norms; '' is anything else
        self._normalised: dict[str, set[str]] = {}  # norm -> writers; '' is anything else
        self._noted: Tensor | None = None  # whose read by the present operation is known
        self._norm_groups: list[tuple[Vector, str]] = []  # and the GroupNorm
        self.called: set[str] = set()
        self._model = model
        self._static = WeakTensorKeyDictionary()  # axes of parameters and buffers
        self._axes = WeakTensorKeyDictionary()  # axes of what is computed
        self._writer = WeakTensorKeyDictionary()  # output of a conv or linear layer -> its name
        # fresh memory -> who made it, what was alive then and how much had been computed
        self._blank = WeakTensorKeyDictionary()
        self._computed: list[Vector] = []
        self._stack: list[_Frame] = []
        self._above = _AboveDispatch(lambda t: self.pin(t, 'an operation out of sight of PyTorch'))
        self._label_tensors()

    def _label_tensors(self) -> None:
        owners: dict[Tensor, int] = {}
        for module in self._model.modules():
            own = dict(recurse=False, remove_duplicate=False)
            for _, tensor in (*module.named_parameters(**own), *module.named_buffers(**own)):
                owners[tensor] = owners.get(tensor, 0) + 1
        for name, tensor in [*self._model.named_parameters(), *self._model.named_buffers()]:
            axes = {}
            for dim, size in enumerate(tensor.shape[:2]):
                if size > 1:
                    axes[dim] = self.labels.new(size)
                    for position, label in enumerate(axes[dim]):
                        self.source[label] = name, dim, position
                    if owners[tensor] > 1:
                        self.labels.pin(axes[dim], f'{name}: shared with another layer')
            self._static[tensor] = axes
        for name, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its sizes are compiled
                for tensor in (*module.parameters(), *module.buffers()):
                    for vector in self.axes(tensor).values():
                        self.labels.pin(vector, f'{name}: compiled by TorchScript')

    @property
    def norm_of(self) -> dict[str, tuple[str, ...]]:
        return {
            writer: tuple(norms)
            for writer, norms in self._reads.items()
            if '' not in norms and all(self._normalised[norm] == {writer} for norm in norms)
        }

    # --- running ------------------------------------------------------------------

    def run(self, forward: Callable[[], Any]) -> None:
        """Trace one call, made without gradients. What it returns is pinned."""
        handles = []
        try:
            for name, module in self._model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                    enter = self._entering(name)
                    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leaving))
            with self._above, self:
                output = forward()
        finally:
            for handle in handles:
                handle.remove()
        for tensor in tensors_in(output):
            self.pin(tensor, 'an output of the model: nobody reads it')
            self._note_read(tensor, '')

    def _entering(self, name: str) -> Callable:
        def enter(module, args, kwargs) -> None:
            self.called.add(name)
            rule = _rule_of(module)
            if kwargs and (rule is not None or is_conv_or_linear(module)):
                args = inspect.signature(module.forward).bind(*args, **kwargs).args
            self._stack.append(_Frame(name, module, args, rule))

        return enter

    def _leaving(self, module, _, output) -> None:
        while self._stack[-1].module is not module:  # a call within raised, and was caught
            self._stack.pop()
        frame = self._stack[-1]
        if frame.rule is not None:
            for tensor in tensors_in(output):
                self._blank.pop(tensor, None)
            frame.rule(self, module, frame.args, output)
        self._stack.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not (self._stack and self._stack[-1].rule):
            self._carry(func, args, kwargs, output)
            for tensor in tensors_in((args, kwargs)):
                if tensor is not self._noted:
                    self._note_read(tensor, '')
            self._noted = None
        return output

    def _carry(self, func, args: tuple, kwargs: dict, output: Any) -> None:
        schema = schema_of(func)
        name = schema.name.rpartition('::')[2]
        mutates = any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
        is_view = not mutates and any(r.alias_info for r in schema.returns)
        if mutates:
            name = name.removesuffix('_')
        inputs = list(tensors_in((args, kwargs)))
        op = Op(
            name,
            {a.name: value for a, value in zip(schema.arguments, args)} | kwargs,
            inputs,
            list(tensors_in(output)),
        )
        if not is_view:
            self._check_filled(inputs[mutates:])
        if mutates and inputs:
            for memory in _memory_of(inputs[0]):
                self._blank.pop(memory, None)
        if name in FACTORIES and not mutates:
            seen = {vector for axes in self._axes.values() for vector in axes.values()}
            for tensor in op.outputs:
                self._blank[tensor] = name, seen, len(self._computed)
            if not name.endswith('_like'):
                return
        if not any(self.axes(t) for t in inputs):
            return
        for tensor in inputs:
            if not tensor.numel():  # kernels take other paths, which tell nothing: a norm forgets
                self.pin(tensor, 'only an empty batch came here')  # its vectors, say
        rule = RULES.get(name)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = join_pointwise
        reshapes = torch.Tag.inplace_view in func.tags  # its shape before is gone
        if rule is None or 'out' in kwargs or reshapes:
            for tensor in inputs:
                self.pin(tensor, f'no rule for {schema.name.rpartition("::")[2]}')
                if reshapes:
                    self._axes.pop(tensor, None)
            return
        known = set(self.axes(inputs[0]))
        rule(self, op)
        if mutates and base_of(inputs[0]) is not None:
            for dim, vector in self.axes(inputs[0]).items():
                if dim not in known:  # the tensor it is a part of does not know
                    self.pin_labels(vector, f'{name} writes into part of a tensor')

    def _check_filled(self, tensors: list[Tensor]) -> None:
        """Fresh memory that holds something no operation has put there was filled by a
        kernel out of sight, which may have read anything that was alive since."""
        for tensor in tensors:
            for memory in _memory_of(tensor):
                name, seen, start = self._blank.pop(memory, (None, (), 0))
                if not name or not memory.numel():
                    continue
                if 'empty' in name or (memory != memory.flatten()[:1]).any():
                    for vector in (*seen, *self._computed[start:]):
                        self.pin_labels(vector, 'an operation out of sight of PyTorch')

    # --- what rules use -------------------------------------------------------------

    def axes(self, tensor: Tensor) -> Axes:
        """The labels that a tensor carries."""
        axes = self._static.get(tensor)
        return self._axes.get(tensor, {}) if axes is None else axes

    def put(self, tensor: Tensor, axes: Axes) -> None:
        """Say which labels a computed tensor carries."""
        self._axes[tensor] = {d: v for d, v in axes.items() if tensor.shape[d] > 1 and any(v)}
        self._computed.extend(self._axes[tensor].values())

    def where(self) -> str:
        """The layer that is running."""
        return self._stack[-1].name if self._stack else ''

    @property
    def running(self) -> nn.Module | None:
        """The module of that layer."""
        return self._stack[-1].module if self._stack else None

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
        """Join two dimensions of one size; one without labels pins the other."""
        if ours is None or theirs is None:
            self.pin_labels(ours or theirs or (), reason)
        else:
            where = self.where()
            self.labels.join(ours, theirs, f'{where}: {reason}' if where else reason)
        return ours or theirs

    @property
    def chunking(self) -> bool:
        """Whether the operation is part of a ``chunk``."""
        return self._above.chunking

    def contract(self, inputs: Tensor, dim: int, weight: Tensor, weight_dim: int) -> None:
        """Channels are read: a sum over ``inputs``' dimension and ``weight``'s."""
        ours, theirs = self.axes(inputs).get(dim), self.axes(weight).get(weight_dim)
        self.join(ours, theirs, 'reads a fixed number of channels')
        if ours is None or theirs is None:
            return
        watched = self._stack[-1].args[:1] if self._is_own_weight(theirs) else ()
        if (
            watched
            and isinstance(watched[0], Tensor)
            and self.axes(watched[0]).get(watched[0].dim() + input_channel_dim(weight)) == ours
        ):
            self.readers[self.where()] = theirs
        else:  # whether the channels are dead could not be watched
            self.pin_labels(ours, 'a product that is not a layer of its own')

    def _is_own_weight(self, vector: Vector | None) -> bool:
        """Whether these are labels of the weight of the layer that is running."""
        own = f'{self.where()}.weight'.lstrip('.')
        return (
            bool(self._stack)
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
            if out_dim != 0:
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
        elif bias is not None:
            shift = self.axes(bias).get(0)
            self.join(made, shift, 'its bias has a fixed size')
            if groups == 1:
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
        """Remember which channels share the statistics of a GroupNorm."""
        size = len(vector) // groups
        blocks = (vector[k * size : (k + 1) * size] for k in range(groups))
        self._norm_groups += [(block, self.where()) for block in blocks]

    def join_norm_groups(self) -> None:
        """Of what shares statistics nothing can go alone, though each channel is one."""
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
        self._note_read(inputs, self.where())
        self._noted = inputs

    def _note_read(self, tensor: Tensor, reader: str) -> None:
        writer = self._writer.get(tensor)
        if writer is not None:
            self._reads.setdefault(writer, {})[reader] = None

    def same_writer(self, output: Tensor, inputs: Tensor) -> None:
        """A reshaped output of a layer still is that layer's."""
        if inputs in self._writer:
            self._writer[output] = self._writer[inputs]
            self._noted = inputs
