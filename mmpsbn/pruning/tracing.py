"""Run a model and follow its channels: a rule for each operation says what it does to labels.

An operation without a rule pins the labels of all it reads: what is not understood is left
whole. Operations are seen below autograd, as PyTorch's dispatcher runs them, so it does not
matter how a model is written, which parameters are frozen or whether activations are
checkpointed.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..upstream import TorchDispatchMode, base_of, schema_of
from . import layer_rules  # noqa: F401  (fills RULES)
from .channel_trace import ChannelTrace, Frame, ModuleRule
from .forward import is_conv_or_linear, tensors_in
from .op_rules import FACTORIES, RULES, join_pointwise

FunctionRule = Callable[[ChannelTrace, dict[str, Any], Any], None]

_MODULE_RULES: dict[type, ModuleRule] = {}
_FUNCTION_RULES: dict[type, FunctionRule] = {}


def register_module_rule(module_type: type, rule: ModuleRule) -> None:
    """Tell the tracer what a module does that computes out of PyTorch's sight.

    Args:
        module_type: matched with ``isinstance``.
        rule: ``rule(trace, module, args, output)``, called after each forward pass in place
            of the operations that the module runs itself; its children's are seen.
            :meth:`ChannelTrace.convolve` and :meth:`ChannelTrace.put` say what most need.
    """
    _MODULE_RULES[module_type] = rule


def register_function_rule(function: type[torch.autograd.Function], rule: FunctionRule) -> None:
    """As :func:`register_module_rule`, of a function, wherever it is called.

    Args:
        rule: ``rule(trace, arguments, output)``; the arguments by their names in ``forward``.
    """
    _FUNCTION_RULES[function] = rule


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


# what reads a tensor's memory without the dispatcher
_LEAVE_TORCH = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)


class _AboveDispatch(TorchFunctionMode):
    """Notices what the dispatcher does not: ``chunk``, which it sees as a split into fixed
    sizes though it divides whatever width it gets, and tensors that leave PyTorch."""

    def __init__(self, trace: ChannelTrace):
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self._trace.chunking = func in (torch.chunk, Tensor.chunk)
        if func in _LEAVE_TORCH:
            self._trace.pin(args[0], 'an operation out of sight of PyTorch')
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._trace.chunking = False


def trace_pass(model: nn.Module, forward: Callable[[], Any]) -> ChannelTrace:
    """Follow the channels of a model through one call, made without gradients. What it returns is
    pinned."""
    trace = ChannelTrace(model)
    tracer = _Tracer(trace)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                enter = tracer.entering(name)
                hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(tracer.leaving))
        for function, rule in _FUNCTION_RULES.items():
            own = vars(function).get('forward')  # else it is a base's
            undo = (setattr, function, 'forward', own) if own else (delattr, function, 'forward')
            hooks.callback(*undo)
            function.forward = staticmethod(tracer.calling(function.forward, rule))
        with _AboveDispatch(trace), tracer:
            output = forward()
    for tensor in tensors_in(output):
        trace.pin(tensor, 'an output of the model: nobody reads it')
        trace.note_read(tensor, '')
    return trace


class _Tracer(TorchDispatchMode):
    """Calls the rule of each operation, or of the module that it is part of."""

    def __init__(self, trace: ChannelTrace):
        super().__init__()
        self.trace = trace
        # fresh memory -> who made it, what was alive then and how much had been computed
        self._blank = WeakTensorKeyDictionary()

    def entering(self, name: str) -> Callable:
        def enter(module, args, kwargs) -> None:
            self.trace.called.add(name)
            rule = _rule_of(module)
            if kwargs and (rule is not None or is_conv_or_linear(module)):
                args = inspect.signature(module.forward).bind(*args, **kwargs).args
            self.trace.stack.append(Frame(name, module, args, rule))

        return enter

    def leaving(self, module, _, output) -> None:
        stack = self.trace.stack
        while stack[-1].module is not module:  # a call within raised, and was caught
            stack.pop()
        frame = stack[-1]
        if frame.rule is not None:
            for tensor in tensors_in(output):
                self._blank.pop(tensor, None)
            frame.rule(self.trace, module, frame.args, output)
        stack.pop()

    def calling(self, compute: Callable, rule: FunctionRule) -> Callable:
        """The forward pass of a function, whose rule speaks for what it runs."""
        trace, signature = self.trace, inspect.signature(compute)

        def forward(ctx, *args):
            if trace.stack and trace.stack[-1].rule:  # which speaks for all within
                return compute(ctx, *args)
            depth = len(trace.stack)
            trace.stack.append(Frame(trace.where(), nn.Identity(), args, rule))
            try:
                output = compute(ctx, *args)
            finally:
                del trace.stack[depth:]
            bound = signature.bind(ctx, *args)
            bound.apply_defaults()
            rule(trace, bound.arguments, output)
            for tensor in tensors_in(args):
                trace.note_read(tensor, '')
            return output

        return forward

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        trace = self.trace
        if not (trace.stack and trace.stack[-1].rule):  # else the module's rule speaks for it
            self._carry(func, args, kwargs, output)
            for tensor in tensors_in((args, kwargs)):
                if tensor is not trace.noted:
                    trace.note_read(tensor, '')
            trace.noted = None
        return output

    def _carry(self, func, args: tuple, kwargs: dict, output: Any) -> None:
        """Carry the labels of an operation's inputs to its outputs."""
        trace, schema = self.trace, schema_of(func)
        name = schema.name.rpartition('::')[2]
        mutates = any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
        is_view = not mutates and any(r.alias_info for r in schema.returns)
        if mutates:
            name = name.removesuffix('_')
        inputs = list(tensors_in((args, kwargs)))
        by_name = {a.name: value for a, value in zip(schema.arguments, args)} | kwargs
        op = Op(name, by_name, inputs, list(tensors_in(output)))
        if not is_view:  # a view reads nothing
            self._check_filled(inputs[mutates:])
        if mutates and inputs:  # from here on the dispatcher knows what is in it
            for memory in _memory_of(inputs[0]):
                self._blank.pop(memory, None)
        if name in FACTORIES and not mutates:
            alive = trace.alive()
            for tensor in op.outputs:
                self._blank[tensor] = name, alive, len(trace.computed)
            if not name.endswith('_like'):
                return
        if not any(trace.axes(t) for t in inputs):
            return
        for tensor in inputs:
            if not tensor.numel():
                # For nothing, kernels take other paths, which do not tell what they do with
                # something: a norm forgets its scale and offset, say.
                trace.pin(tensor, 'only an empty batch came here')
        rule = RULES.get(name)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = join_pointwise
        reshapes = torch.Tag.inplace_view in func.tags  # its shape before is gone
        if rule is None or 'out' in kwargs or reshapes:
            for tensor in inputs:
                trace.pin(tensor, f'no rule for {schema.name.rpartition("::")[2]}')
                if reshapes:
                    trace.forget(tensor)
            return
        known = set(trace.axes(inputs[0]))
        rule(trace, op)
        if mutates and base_of(inputs[0]) is not None:
            for dim, vector in trace.axes(inputs[0]).items():
                if dim not in known:  # the tensor it is a part of does not know
                    trace.pin_labels(vector, f'{name} writes into part of a tensor')

    def _check_filled(self, tensors: list[Tensor]) -> None:
        """Fresh memory that holds something no operation has put there was filled by a
        kernel out of sight, which may have read anything that was alive since."""
        for tensor in tensors:
            for memory in _memory_of(tensor):
                name, alive, start = self._blank.pop(memory, (None, (), 0))
                if not name or not memory.numel():
                    continue
                # zeros, ones and the like are as they were made if all of it is one value
                if 'empty' in name or (memory != memory.flatten()[:1]).any():
                    for vector in (*alive, *self.trace.computed[start:]):
                        self.trace.pin_labels(vector, 'an operation out of sight of PyTorch')
