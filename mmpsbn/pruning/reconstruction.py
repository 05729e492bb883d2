"""What stays takes over, as far as it can, from what goes."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .forward import first_argument, input_channel_dim, is_conv_or_linear, output_dim
from .graph import ChannelGroup, Member

# Of one call, evenly spaced: several for each of 2,048 channels, at a small part of a step's cost.
_MOST_SAMPLES = 8192
# Of one layer: the moments of more would take more memory than its weight.
_MOST_CHANNELS = 4096


class InputMoments:
    """M = sum x x^T over what layers read, x being the channels at one place of one picture.

    Seen are the training passes that happen anyway, until closed. Left out are layers that do not
    sum over all that they read (grouped convolutions), and those that read more than 4,096
    channels. What a linear layer reads of one channel behind a flatten are places of it.

    Args:
        model: holds the layers.
        groups: whose readers are watched.
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup]):
        self._model = model
        self._groups = groups
        self._positions = _positions_read(model, groups)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}  # of samples
        self._handles = []
        for name, positions in self._positions.items():
            layer = model.get_submodule(name)
            dtype = torch.promote_types(layer.weight.dtype, torch.float32)
            shape = 2 * positions.shape[:1]
            self._sums[name] = torch.zeros(shape, dtype=dtype, device=positions.device)
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
            samples = _samples(x.movedim(input_channel_dim(module.weight), -1))
            channels = samples[:, self._positions[name]].transpose(1, 2).flatten(0, 1)
            with torch.autocast(channels.device.type, enabled=False):
                channels = channels.to(self._sums[name].dtype)
                self._sums[name] += channels.T @ channels
            self._counts[name] += len(channels)

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
        self,
        models: Sequence[nn.Module],
        keep_masks: Mapping[str, Tensor],
        *,
        agree: Callable[[Tensor], Tensor] = lambda weight: weight,
    ) -> Iterator[None]:
        """Give the readers of channels that are to go, in their weights for those that stay, what
        both have in common; where what is done within fails, all is put back, bit for bit.

        With R the channels of a layer's input that go and K those that stay, each tap of its
        weight W gets

            W_K <- W_K + W_R A,  A = argmin sum |x_R - A x_K|^2 + r |A|^2
                                   = M_RK (M_KK + r I)^-1,

        so that with 0 in place of x_R the layer gives what it gave, but for what no linear function
        of x_K tells of x_R. In place of the outputs of a layer (Channel Pruning, He et al., ICCV
        2017, eq. 5) its inputs are fitted: one solution serves all taps, needs no bias, and holds
        at the zeros of a padding too.

        A layer that saw nothing, or NaN, stays as it is.
        r is the mean of diag M_KK times the number of K over that of samples: what few samples tell
        of many channels is believed less.

        Args:
            models: the one that was watched, and averages of it.
            keep_masks: group name -> shape (channels,), bool, True = stays.
            agree: makes a weight that was computed here the one of all ranks.
        """
        gone: dict[str, list[int]] = {}
        for name in keep_masks.keys() & self._groups.keys():
            for reader in self._groups[name].readers:
                gone.setdefault(reader.layer, []).extend(reader.positions(~keep_masks[name]))
        with ExitStack() as undo:
            for name, positions in self._positions.items():
                positions, samples = positions.cpu(), int(self._counts[name])
                goes = torch.isin(positions[:, 0], torch.tensor(gone.get(name, [])))
                # in float64, which not every device has
                moments = self._sums[name].to('cpu', torch.float64)
                kept = moments[~goes][:, ~goes]
                if not goes.any() or not kept.any() or not moments.isfinite().all():
                    continue
                ridge = kept.diagonal().mean() * len(kept) / samples
                kept.diagonal().add_(ridge)
                prediction = torch.linalg.solve(kept, moments[~goes][:, goes])  # A transposed
                for model in models:
                    layer = model.get_submodule(name)
                    new = agree(_taken_over(layer, positions, goes, prediction))
                    undo.callback(layer.weight.data.copy_, layer.weight.data.clone())
                    layer.weight.data.copy_(new)
            yield
            undo.pop_all()


def _positions_read(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """Layer -> where in its input each channel is, shape (channels, places)."""
    readers: dict[str, list[Member]] = {}
    for group in groups.values():
        for reader in group.readers:
            readers.setdefault(reader.layer, []).append(reader)
    found = {}
    for name, members in readers.items():
        layer, size = model.get_submodule(name), members[0].size
        if not is_conv_or_linear(layer) or layer.weight.shape[1 - output_dim(layer)] != size:
            continue
        order, places = range(size), 1
        if isinstance(layer, nn.Linear) and len(members) == 1:
            counts = set(Counter(members[0].channel).values())
            if len(members[0].index) == size and len(counts) == 1:
                order = [k for _, k in sorted(zip(members[0].channel, members[0].index))]
                (places,) = counts
        if size // places <= _MOST_CHANNELS:
            found[name] = torch.tensor(order, device=layer.weight.device).view(-1, places)
    return found


def _samples(x: Tensor) -> Tensor:
    """Evenly spaced places of each picture, shape (samples, P); channels are last in ``x``."""
    x = torch.atleast_2d(x)
    x = x.reshape(len(x), -1, x.shape[-1])
    step = -(-x.shape[0] * x.shape[1] // _MOST_SAMPLES)
    return x[:, ::step].flatten(0, 1)


def _taken_over(layer: nn.Module, positions: Tensor, goes: Tensor, prediction: Tensor) -> Tensor:
    """The layer's weight with W_R A added to W_K; float64, on the CPU."""
    weight = layer.weight.detach().to('cpu', torch.float64, copy=True)
    taps = weight.movedim(1 - output_dim(layer), -1)  # the same memory
    of_gone = taps[..., positions[goes]]
    taps[..., positions[~goes]] += torch.einsum('...rt,kr->...kt', of_gone, prediction)
    return weight
