"""Which channels still speak: the running max of what each reader sees."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..functional.statistics import channel_range
from .forward import input_channel_dim
from .graph import ChannelGroup


class ActivationWindow:
    """Running min and max per channel of what the layers that read a group's channels see.

    A channel is dead if every reader only ever saw 0 of it: then it can go without
    changing anything, whatever lies between writer and readers (ReLU, an addition,
    pooling). It is constant if every reader only ever saw one value. Reads the forward
    passes that happen anyway; the values stay on the device until asked for.

    Args:
        model: holds the readers; pruning it ends the window.
        groups: the channel groups to watch.
        in_training_only: leave out passes in eval mode (a validation, say).

    Attributes:
        ranges: reader -> (min, max) of its input at each position, shapes (P,), float32 or
            the input's dtype where that is wider.
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], *, in_training_only: bool
    ):
        self.groups = groups
        self._model = model
        self._in_training_only = in_training_only
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        readers = {m.layer for group in groups.values() for m in group.readers}
        self._handles = [
            model.get_submodule(name).register_forward_pre_hook(self._watch(name))
            for name in sorted(readers)
        ]

    def _watch(self, name: str):

        watched = self._model.get_submodule(name)

        def update(module, args) -> None:
            if module is not watched:  # a deep copy of the model keeps the hook
                return
            # the model's own mode: a frozen layer is in eval mode while it trains
            if self._in_training_only and not self._model.training:
                return
            low, high = channel_range(args[0], channel_dim=input_channel_dim(module.weight))
            if low.dtype in (torch.float16, torch.bfloat16):
                low, high = low.float(), high.float()
            if name in self.ranges:
                before = self.ranges[name]
                if before[0].shape != low.shape:
                    raise ValueError(
                        f'{name} reads {len(low)} channels, its saved window has {len(before[0])}'
                    )
                low, high = torch.minimum(before[0], low), torch.maximum(before[1], high)
            self.ranges[name] = low, high

        return update

    def scores(self) -> dict[str, Tensor]:
        """max |activation| of each channel of each group, shape (channels,).

        NaN where a reader saw NaN, inf in a group one of whose readers never ran: what it
        would see is unknown.
        """
        return self._over_readers(lambda low, high: torch.maximum(low.abs(), high.abs()))

    def spreads(self) -> dict[str, Tensor]:
        """The largest (max - min) / max |activation| over the readers of each channel of each
        group, shape (channels,): 0 where it is constant, dead included; at most 2."""

        def spread(low: Tensor, high: Tensor) -> Tensor:
            scale = torch.maximum(low.abs(), high.abs())
            return torch.where(scale > 0, (high - low) / scale, scale)

        return self._over_readers(spread)

    def values(self) -> dict[str, Tensor]:
        """The middle of the range at each position of each reader, shape (P,)."""
        return {name: (low + high) / 2 for name, (low, high) in self.ranges.items()}

    def _over_readers(self, measure) -> dict[str, Tensor]:
        return {name: self._largest(group, measure) for name, group in self.groups.items()}

    def _largest(self, group: ChannelGroup, measure) -> Tensor:
        largest = None
        for member in group.readers:
            if member.layer not in self.ranges:
                device = self._model.get_submodule(member.layer).weight.device
                return torch.full((group.channels,), torch.inf, device=device)
            seen = measure(*self.ranges[member.layer])
            index = torch.tensor(member.index, device=seen.device)
            channel = torch.tensor(member.channel, device=seen.device)
            if largest is None:
                largest = seen.new_zeros(group.channels)
            largest = largest.scatter_reduce(0, channel, seen[index], 'amax')
        return largest

    def state(self) -> dict[str, list]:
        """The ranges by reader, plain types."""
        return {name: [x.tolist() for x in pair] for name, pair in self.ranges.items()}

    def restore(self, state: Mapping[str, list], device: torch.device) -> None:
        """Go on from what :meth:`state` gave."""
        self.ranges = {
            name: tuple(torch.tensor(x, dtype=torch.float64, device=device) for x in pair)
            for name, pair in state.items()
        }

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
