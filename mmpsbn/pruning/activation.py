"""Which channels still speak: the running max of what each reader sees."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..functional.statistics import channel_range
from .forward import first_argument, input_channel_dim
from .graph import ChannelGroup


class ActivationWindow:
    """Running min and max per channel of what the layers that read a group's channels see.

    A channel is dead if every reader only ever saw 0 of it: then it can go without
    changing anything, whatever lies between writer and readers (ReLU, an addition,
    pooling). A reader that saw no sample, or too few, tells nothing: what it would see is
    unknown. Reads the forward passes that happen anyway; the values stay on the device until
    asked for.

    Args:
        model: holds the readers; pruning it ends the window.
        groups: the channel groups to watch.
        in_training_only: leave out passes in eval mode (a validation, say).

    Attributes:
        ranges: reader -> (min, max) of its input at each position, shapes (P,), float32 or
            the input's dtype where that is wider.
        samples: reader -> how many samples it saw, >= 1. They are counted where they are read:
            a branch that few pictures reach saw few, the second stage of a detector many a
            picture. Dimension 0 counts, unless it is that of the channels: then it is one.
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], *, in_training_only: bool
    ):
        self.groups = groups
        self._model = model
        self._in_training_only = in_training_only
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self.samples: dict[str, int] = {}
        # Of the samples those that are of all ranks: ranges may be joined twice, counts may not.
        self._joined: dict[str, int] = {}
        readers = {m.layer: m.size for group in groups.values() for m in group.readers}
        self._positions = dict(sorted(readers.items()))  # ranks concatenate in this order
        self._handles = [
            model.get_submodule(name).register_forward_pre_hook(self._watch(name), with_kwargs=True)
            for name in self._positions
        ]

    def _watch(self, name: str):
        watched = self._model.get_submodule(name)

        def update(module, args, kwargs) -> None:
            if module is not watched:  # a deep copy of the model keeps the hook
                return
            # the model's own mode: a frozen layer is in eval mode while it trains
            if self._in_training_only and not self._model.training:
                return
            x = first_argument(module, args, kwargs)
            if not x.numel():  # nothing was observed
                return
            dim = input_channel_dim(module.weight)
            low, high = channel_range(x, channel_dim=dim)
            # what is tiny in half precision under AMP must not become 0 by being merged
            if low.dtype in (torch.float16, torch.bfloat16):
                low, high = low.float(), high.float()
            if name in self.ranges:
                before = self.ranges[name]
                low, high = torch.minimum(before[0], low), torch.maximum(before[1], high)
            self.ranges[name] = low, high
            samples = 1 if dim % x.dim() == 0 else x.size(0)
            self.samples[name] = self.samples.get(name, 0) + samples

        return update

    def scores(self, least_samples: int = 1, *, positive: bool = False) -> dict[str, Tensor]:
        """max |activation| of each channel of each group, or its largest positive one, 0 where none
        is; shape (channels,).

        NaN where a reader saw NaN, inf in a group one of whose readers saw fewer than
        ``least_samples``: what it would see is unknown.
        """
        unknown = self.short_of(least_samples)
        return {
            name: self._largest(group, unknown, positive=positive)
            for name, group in self.groups.items()
        }

    def values(self) -> dict[str, Tensor]:
        """The middle of the range at each position of each reader, shape (P,)."""
        return {name: (low + high) / 2 for name, (low, high) in self.ranges.items()}

    def short_of(self, least_samples: int) -> dict[str, int]:
        """Reader that saw fewer than ``least_samples`` -> how many it saw."""
        seen = {name: self.samples.get(name, 0) for name in self._positions}
        return {name: count for name, count in seen.items() if count < least_samples}

    def _largest(
        self, group: ChannelGroup, unknown: Mapping[str, int], *, positive: bool
    ) -> Tensor:
        largest = None
        for member in group.readers:
            if member.layer in unknown:
                device = self._model.get_submodule(member.layer).weight.device
                return torch.full((group.channels,), torch.inf, device=device)
            low, high = self.ranges[member.layer]
            seen = high.clamp_min(0) if positive else torch.maximum(-low, high)
            index = torch.tensor(member.index, device=seen.device)
            channel = torch.tensor(member.channel, device=seen.device)
            if largest is None:
                largest = seen.new_zeros(group.channels)
            largest = largest.scatter_reduce(0, channel, seen[index], 'amax')
        return largest

    def join(self, all_reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Make this the window of what all ranks saw, on each of them; they call it together,
        as often as they like. A rank on which a reader saw nothing adds nothing. NaN becomes
        infinite, which survives a maximum over ranks on every backend.

        Args:
            all_reduce: ``all_reduce(tensor, op)`` returns the element-wise ``'sum'`` or
                ``'max'`` over the ranks.
        """
        if not self._positions:
            return
        extremes = []
        for name in self._positions:
            low, high = self.ranges.get(name) or self._of_nothing(name)
            extremes += [-low, high]  # one maximum over ranks finds both ends
        joined = torch.cat([x.nan_to_num(torch.inf, torch.inf, -torch.inf) for x in extremes])
        sizes = [len(x) for x in extremes]
        new = [self.samples.get(n, 0) - self._joined.get(n, 0) for n in self._positions]
        new = all_reduce(torch.tensor(new, device=joined.device), 'sum').tolist()
        parts = iter(all_reduce(joined, 'max').split(sizes))
        for name, count in zip(self._positions, new):
            low, high = -next(parts), next(parts)
            count += self._joined.get(name, 0)
            if count:
                self.ranges[name], self.samples[name] = (low, high), count
        self._joined = dict(self.samples)

    def _of_nothing(self, name: str) -> tuple[Tensor, Tensor]:
        """The range of no value, (inf, -inf), at each position of a reader."""
        weight = self._model.get_submodule(name).weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        low = torch.full((self._positions[name],), torch.inf, dtype=dtype, device=weight.device)
        return low, -low

    def state(self) -> dict[str, dict]:
        """What was seen by reader, plain types."""
        return {
            name: dict(samples=self.samples[name], low=low.tolist(), high=high.tolist())
            for name, (low, high) in self.ranges.items()
        }

    def restore(self, state: Mapping[str, Mapping]) -> None:
        """Go on from what :meth:`state` gave once ranks had joined theirs.

        Raises:
            ValueError: it is of another width; names the reader.
        """
        for name, size in self._positions.items():
            if name not in state:
                continue
            like, seen = self._of_nothing(name)[0], state[name]
            if len(seen['low']) != size:
                raise ValueError(
                    f'{name} reads {size} channels, its saved window has {len(seen["low"])}'
                )
            self.ranges[name] = like.new_tensor(seen['low']), like.new_tensor(seen['high'])
            self.samples[name] = self._joined[name] = seen['samples']

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
