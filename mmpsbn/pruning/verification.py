"""Nothing is believed: outputs before and after surgery are compared.

Here outputs are made and compared; ``prune`` acts on it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..upstream import TorchDispatchMode, schema_of
from .forward import ForwardFn, first_argument, input_channel_dim, observing, tensors_in
from .graph import ChannelGroup

# Largest relative change of the outputs that passes for rounding, in float32.
TOLERANCE = 1e-5


class VerificationError(RuntimeError):
    """Surgery changed what the model computes, and was undone.

    Attributes:
        groups: names of the channel groups at fault; empty if only their sum is too large.
    """

    def __init__(self, message: str, groups: list[str]):
        super().__init__(message)
        self.groups = groups


def probe_outputs(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> list[Tensor]:
    """The output tensors of one forward pass in eval mode, in full float32 precision and from
    one seed."""
    with observing(model), _full_precision():
        outputs = list(tensors_in(forward_fn(model, batch)))
    if not outputs:
        raise ValueError(
            f'{type(model).__name__}: the forward function returned no tensor to compare'
        )
    return outputs


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 and bfloat16 kernels round to 10 and 7 bits, and another width picks another kernel."""
    with ExitStack() as restore:
        with suppress(RuntimeError):  # where a precision was set by torch 2.9's names, it stays
            precision = torch.get_float32_matmul_precision()
            restore.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision('highest')
        restore.enter_context(
            torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
        )
        yield


def masked_outputs(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    batch: Any,
    forward_fn: ForwardFn,
) -> list[Tensor]:
    """What the model gives if its readers see 0 of the channels that are not kept.

    That is what it must still give once these channels are removed, dead or alive.
    """
    gone: dict[str, list[int]] = {}
    for name, keep_mask in keep_masks.items():
        for reader in groups[name].readers:
            gone.setdefault(reader.layer, []).extend(reader.positions(~keep_mask))
    with ExitStack() as hooks:
        for layer, index in gone.items():
            reader = model.get_submodule(layer)
            hook = reader.register_forward_pre_hook(_masking(index), with_kwargs=True)
            hooks.enter_context(hook)
        return probe_outputs(model, batch, forward_fn)


def _masking(index: list[int]) -> Callable:
    """A pre-hook that puts 0 in place of some channels of what a layer reads."""

    def mask(module, args, kwargs):
        read = first_argument(module, args, kwargs)
        index_on = torch.tensor(index, device=read.device, dtype=torch.long)
        masked = read.index_fill(input_channel_dim(module.weight), index_on, 0)
        if args:
            return (masked, *args[1:]), kwargs
        return args, {k: masked if value is read else value for k, value in kwargs.items()}

    return mask


def output_errors(before: list[Tensor], after: list[Tensor]) -> tuple[float, float]:
    """The largest error over all output tensors, absolute and relative.

    Returns:
        max |after - before| and max (|after - before| / max |before| of the tensor); both
        inf where the number of tensors or a shape differs or a value is not finite.
    """
    if [x.shape for x in before] != [y.shape for y in after]:
        return float('inf'), float('inf')
    worst = [0.0, 0.0]
    for x, y in zip(before, after):
        if not x.numel():
            continue
        if x.is_complex() and y.is_complex():
            x, y = torch.view_as_real(x), torch.view_as_real(y)
        if not x.is_floating_point():  # labels, masks
            x, y = x.double(), y.double()
        error = (y - x).abs().max()
        # relative to the tensor's maximum: element by element, what is near 0 would always fail
        scale = x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        for i, value in enumerate((float(error), float(error / scale))):
            # max() passes over a NaN, depending on the order
            worst[i] = max(worst[i], value if value == value else float('inf'))
    return worst[0], worst[1]


# what they return is a choice among their inputs, as of topk and sort, and is not held
_SELECTING = ('argmax', 'argmin', 'nonzero', 'nms')
# beyond it a value is taken for a mark and not for a score
_LARGE = 1e4


class Choices(TorchDispatchMode):
    """What topk and sort choose in one pass, to be chosen again in another, where a rounding error
    would come out as another choice.

    Args:
        made: of the pass whose choices are made again; None leaves them free.

    Attributes:
        indices: what was chosen, operation by operation.
        among: what it was chosen from: an output like any other.
        others: operations that choose and are not held.
    """

    def __init__(self, made: 'Choices | None' = None):
        super().__init__()
        self.among: list[Tensor] = []
        self.others: set[str] = set()
        self.indices: list[Tensor] = []
        self._again = None if made is None else iter(made.indices)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output, schema = func(*args, **kwargs), schema_of(func)
        name = schema.name.rpartition('::')[2]
        if name in _SELECTING:
            self.others.add(name)
        if name not in ('topk', 'sort') or 'values' in kwargs:
            return output
        (values, indices), by_name = output, dict(zip((a.name for a in schema.arguments), args))
        among, dim = by_name['self'], (by_name | kwargs).get('dim', -1)
        self.among += _bands(among)
        if self._again is not None:
            indices = next(self._again, None)
            if indices is None:
                raise RuntimeError('this pass chooses more often than the one that it repeats')
            values = among.gather(dim, indices)
        self.indices.append(indices)
        return values, indices

    def of(self, forward_fn: ForwardFn) -> ForwardFn:
        """The forward function, with what was chosen from among its outputs."""

        def forward(model: nn.Module, batch: Any) -> Any:
            with self:
                return forward_fn(model, batch), self.among

        return forward


def _bands(among: Tensor) -> list[Tensor]:
    """What is ordinary, what is large, and what is infinite, each beside zeros: what may not be
    chosen is often filled with a large number, beside which no error in the others would show."""
    if not among.is_floating_point():
        return [among]
    infinite, large = among.isinf(), among.abs() > _LARGE
    return [
        among.masked_fill(large, 0),
        among.masked_fill(~large | infinite, 0),
        infinite * among.sign(),
    ]
