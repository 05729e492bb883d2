"""Which layers read what a layer puts out, for observation.

``tracing`` says what must go together; this says where to look at a channel: at the first layers
that sum over it, after whatever activation and addition lies between.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..upstream import ConvBase, TorchDispatchMode
from .forward import ForwardFn, observing, tensors_in

# one call of a layer: its name, and the how manieth of a forward pass
Call = tuple[str, int]

READERS = (ConvBase, nn.Linear)


def trace_readers(
    model: nn.Module, batch: Any, forward_fn: ForwardFn, *, sources: Iterable[str]
) -> dict[str, tuple[Call, ...]]:
    """Layer -> the calls of convolution and linear layers that read its output first, in eval mode.

    A head that pyramid levels share reads the norm of each level in a call of its own.

    What lies between (activations, additions, pooling, concatenation) passes on; a
    convolution, a linear layer or another source ends it, and so does, for what has been
    read, a meeting with what has not. So the last norm of a residual block is read after the
    addition, by the next block and not by those behind it, whose own norms add to the stream;
    and a norm in front of the activation and the convolution (pre-activation nets) by that
    convolution alone.

    Args:
        batch: what ``forward_fn`` takes; one small sample is enough.
        sources: names of layers. One that nobody reads, or that is not reached, is not in
            the result.
    """
    flow = _Flow()
    watched = set(sources)
    readers: dict[str, dict[Call, None]] = {}
    calls: Counter[str] = Counter()

    def reads(name: str) -> Callable:
        def note(module, args, kwargs) -> None:
            for tensor in tensors_in((args, kwargs)):
                for source in flow.sources(tensor):
                    readers.setdefault(source, {})[name, calls[name]] = None
                flow.put(tensor, flow.sources(tensor), read=True)  # for who reads it later
            calls[name] += 1

        return note

    def begins(sources: frozenset[str]) -> Callable:
        def mark(module, args, output) -> None:
            for tensor in tensors_in(output):
                flow.put(tensor, sources, read=False)

        return mark

    with ExitStack() as hooks, observing(model):
        for name, module in model.named_modules():
            if isinstance(module, READERS):
                hook = module.register_forward_pre_hook(reads(name), with_kwargs=True)
                hooks.enter_context(hook)
            if name in watched or isinstance(module, READERS):  # a reader ends the flow as well
                begin = begins(frozenset([name] if name in watched else []))
                hooks.enter_context(module.register_forward_hook(begin))
        with flow:
            forward_fn(model, batch)
    return {source: tuple(found) for source, found in readers.items()}


class _Flow(TorchDispatchMode):
    """Every tensor carries the names of the sources it comes from, and whether it was read."""

    def __init__(self):
        super().__init__()
        self._marks = WeakTensorKeyDictionary()

    def sources(self, tensor: Tensor) -> frozenset[str]:
        return self._marks.get(tensor, (frozenset(), False))[0]

    def put(self, tensor: Tensor, sources: frozenset[str], *, read: bool) -> None:
        self._marks[tensor] = sources, read

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        marks = [self._marks.get(tensor) for tensor in tensors_in((args, kwargs or {}))]
        marks = [mark for mark in marks if mark is not None and mark[0]]
        if marks:
            # In a residual stream the block's output is new and the shortcut has been read by the
            # block: what comes out of the addition is the block's to be read, not the stream's.
            unread = [mark for mark in marks if not mark[1]]
            sources = frozenset().union(*(sources for sources, _ in unread or marks))
            for tensor in tensors_in(output):
                self.put(tensor, sources, read=not unread)
        return output
