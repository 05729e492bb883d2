"""What stays takes over, as far as it can, from what goes."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .forward import first_argument, input_channel_dim, is_conv_or_linear
from .graph import ChannelGroup, Member

# Of one call: at least two for each number. Of channels alone it costs a fifth of the layer's
# forward pass, of all taps nine times that pass (256 channels, 3x3).
_MOST_SAMPLES = 8192
# Of one layer: its moments take 64 MB at most.
_MOST_NUMBERS = 4096
# Of the layers that :meth:`InputMoments.reconstructed` names.
NOT_TAKEN_OVER = (
    '{} read NaN or infinity, or no number but 0: what is removed before them is not taken over'
)


@dataclass(frozen=True)
class _Input:
    """What a layer reads.

    Attributes:
        positions: where in it each channel is, shape (channels, places): several places of one
            channel behind a flatten.
        dim: the dimension of the layer's weight that these index.
        taps: of each channel that it reads at once: the taps of a convolution, or 1 where each
            is predicted alone.
    """

    positions: Tensor
    dim: int
    taps: int


class InputMoments:
    """M = sum x x^T over what layers read, x being the channels at one place of one picture; or
    with ``taps`` the numbers that one output is computed from, all channels under all taps of a
    convolution.

    Seen are the training passes that happen anyway, until closed. Dropout before a layer makes the
    diagonal larger, and so what is told by its channels less. Left out are layers that read more
    than 4,096 channels.

    Args:
        model: holds the layers.
        groups: whose readers are watched.
        taps: of plain 2-D convolutions of one group and a kernel beyond 1x1 that pad with numbers
            of zeros and read up to 4,096 numbers; all others read channels at one place. For a cut
            that nothing is trained after (docs/results.md): it takes longer, and more pictures than
            a batch has.
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup], *, taps: bool = False):
        self._model = model
        self._groups = groups
        self._inputs = _inputs(model, groups, taps)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}  # of samples
        self._handles = []
        for name, read in self._inputs.items():
            layer, numbers = model.get_submodule(name), len(read.positions) * read.taps
            dtype = torch.promote_types(layer.weight.dtype, torch.float32)
            self._sums[name] = layer.weight.new_zeros(numbers, numbers, dtype=dtype)
            self._counts[name] = torch.zeros((), dtype=torch.int64)
            hook = layer.register_forward_pre_hook(self._watch(name, layer), with_kwargs=True)
            self._handles.append(hook)

    def _watch(self, name: str, watched: nn.Module) -> Callable:
        @torch.no_grad()
        def update(module, args, kwargs) -> None:
            x = first_argument(module, args, kwargs)
            # a deep copy of the model keeps the hook
            if module is not watched or not self._model.training or not x.numel():
                return
            read = self._inputs[name]
            if read.taps > 1:
                under = [_samples(view.movedim(1, -1)) for view in _under_taps(module, x)]
                numbers = torch.stack(under, -1).flatten(1)
            else:
                samples = _samples(x.movedim(input_channel_dim(module.weight), -1))
                numbers = samples[:, read.positions].transpose(1, 2).flatten(0, 1)
            with _without_autocast(numbers.device.type):
                numbers = numbers.to(self._sums[name].dtype)
                self._sums[name] += numbers.T @ numbers
            self._counts[name] += len(numbers)

        return update

    def join(self, all_reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Sum over the ranks, which call it together."""
        for sums in (self._sums, self._counts):
            for name, total in sums.items():
                sums[name] = all_reduce(total, 'sum')

    def close(self) -> None:
        """Stop watching; what was seen stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def reconstructed(
        self, models: Sequence[nn.Module], keep_masks: Mapping[str, Tensor]
    ) -> Iterator[list[str]]:
        """Give the readers of channels that are to go, in their weights for those that stay, what
        both have in common; where what is done within fails, all is put back, bit for bit.

        With R the numbers of a layer's input that go and K those that stay, its weight W, frozen
        or not, gets

            W_K <- W_K + W_R A,  A = argmin sum |x_R - A x_K|^2 + r |A|^2
                                   = M_RK (M_KK + r I)^-1.

        r is the mean of diag M_KK times the number of K over that of samples: what few samples tell
        of many numbers is believed less. But for r the layer gives with 0 in place of x_R what
        comes nearest to what it gave (Channel Pruning, He et al., ICCV 2017, eq. 5, without the
        choice of channels), at the zeros of a padding too. Where x is the channels at one place,
        one A serves all taps.

        A layer that read NaN or infinity, or no number but 0, stays as it is; within, these are
        known by their names.

        Args:
            models: the one that was watched, and averages of it.
            keep_masks: group name -> shape (channels,), bool, True = stays.
        """
        gone: dict[str, list[int]] = {}
        for name in keep_masks.keys() & self._groups.keys():
            for reader in self._groups[name].readers:
                gone.setdefault(reader.layer, []).extend(reader.positions(~keep_masks[name]))
        unchanged = []
        with ExitStack() as undo:
            for name, read in self._inputs.items():
                goes = torch.isin(read.positions[:, 0].cpu(), torch.tensor(gone.get(name, [])))
                if not goes.any():
                    continue
                goes = goes.repeat_interleave(read.taps)
                # in float64, which not every device has
                moments = self._sums[name].to('cpu', torch.float64)
                of_kept = moments[~goes]
                kept, cross = of_kept[:, ~goes], of_kept[:, goes]
                if not kept.any() or not moments.isfinite().all():
                    unchanged.append(name)
                    continue
                ridge = kept.diagonal().mean() * len(kept) / int(self._counts[name])
                kept.diagonal().add_(ridge)
                prediction = torch.linalg.solve(kept, cross)  # A transposed
                for model in models:
                    weight = model.get_submodule(name).weight.data
                    undo.callback(weight.copy_, weight.clone())
                    weight.copy_(_taken_over(weight, read, goes, prediction))
            yield unchanged
            undo.pop_all()


def _inputs(
    model: nn.Module, groups: Mapping[str, ChannelGroup], all_taps: bool
) -> dict[str, _Input]:
    """What the readers of groups read, by layer."""
    # of one that reads several groups, any: of none it reads all
    readers = {m.layer: (group, m) for group in groups.values() for m in group.readers}
    found = {}
    for name, (group, member) in readers.items():
        layer, dim = model.get_submodule(name), dict(member.slices).get('weight')
        if not is_conv_or_linear(layer) or dim is None:
            continue
        positions = torch.arange(member.size)[:, None]
        if _is_flattened(layer, group, member):
            order = [position for _, position in sorted(zip(member.channel, member.index))]
            positions = torch.tensor(order).view(group.channels, -1)
        taps = layer.weight[0, 0].numel() if all_taps and _has_plain_taps(layer) else 1
        if len(positions) * taps > _MOST_NUMBERS:
            taps = 1
        if len(positions) <= _MOST_NUMBERS:
            found[name] = _Input(positions.to(layer.weight.device), dim, taps)
    return found


def _has_plain_taps(layer: nn.Module) -> bool:
    """Whether an output is computed from the same places around it, with zeros at the border."""
    return (
        type(layer).forward is nn.Conv2d.forward
        and layer.groups == 1
        and layer.padding_mode == 'zeros'
        and not isinstance(layer.padding, str)
    )


def _under_taps(layer: nn.Conv2d, x: Tensor) -> Iterator[Tensor]:
    """For each tap, what it reads for all outputs, shape (N, C, H, W) of the output."""
    x = x[None] if x.dim() == 3 else x
    (top, left), (down, right) = layer.padding, layer.stride
    x = nn.functional.pad(x, (left, left, top, top))
    sizes = zip(x.shape[2:], layer.kernel_size, layer.dilation, layer.stride)
    rows, columns = ((size - (taps - 1) * gap - 1) // step for size, taps, gap, step in sizes)
    for tap in itertools.product(*map(range, layer.kernel_size)):
        y, z = (at * gap for at, gap in zip(tap, layer.dilation))
        yield x[:, :, y : y + rows * down + 1 : down, z : z + columns * right + 1 : right]


def _is_flattened(layer: nn.Module, group: ChannelGroup, reader: Member) -> bool:
    """Whether a linear layer reads a group alone, and each channel at as many places.

    Not where a channel of the group stands for several that must go together.
    """
    before = (*group.writers, *group.channelwise)
    return (
        isinstance(layer, nn.Linear)
        and len(reader.index) == reader.size
        and all(len(set(member.channel)) == len(member.channel) for member in before)
        and len({reader.channel.count(channel) for channel in set(reader.channel)}) == 1
    )


def _without_autocast(device_type: str) -> AbstractContextManager:
    try:
        return torch.autocast(device_type, enabled=False)
    except (AssertionError, RuntimeError):  # the device has none
        return nullcontext()


def _samples(x: Tensor) -> Tensor:
    """Evenly spaced ones, shape (samples, P), of what has channels last."""
    x = torch.atleast_2d(x)
    sizes = x.shape[:-1]
    count, places = math.prod(sizes), math.prod(sizes[1:])
    step = -(-count // _MOST_SAMPLES)
    while math.gcd(step, places) > 1:  # or they would all be in a few columns of the pictures
        step += 1
    at = torch.arange(0, count, step, device=x.device)
    index = []
    for size in reversed(sizes):
        index.insert(0, at % size)
        at = at // size
    return x[tuple(index)]


def _taken_over(weight: Tensor, read: _Input, goes: Tensor, prediction: Tensor) -> Tensor:
    """W with W_R A added to W_K; float64, on the CPU."""
    weight = weight.to('cpu', torch.float64, copy=True)
    if read.taps > 1:
        numbers = weight.flatten(1)
        numbers[:, ~goes] += numbers[:, goes] @ prediction.T
        return numbers.view_as(weight)
    positions = read.positions.cpu()
    taps = weight.movedim(read.dim, -1)  # the same memory
    of_gone = taps[..., positions[goes]]
    taps[..., positions[~goes]] += torch.einsum('...rt,kr->...kt', of_gone, prediction)
    return weight
