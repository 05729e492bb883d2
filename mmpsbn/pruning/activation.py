"""Which channels still speak: the running max of what each reader sees."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..functional.selection import select_keep_mask
from ..functional.statistics import channel_max_abs
from .graph import ChannelGroup


class ActivationWindow:
    """Running max |input| per channel of the layers that read a group's channels.

    A channel is dead if every reader only ever saw 0 of it: then it can go without
    changing anything, whatever lies between writer and readers (ReLU, an addition,
    pooling). Reads the forward passes that happen anyway; the values stay on the
    device until asked for.

    Args:
        model: holds the readers; pruning it ends the window.
        groups: the channel groups to watch.
        in_training_only: leave out passes in eval mode (a validation, say).
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], *, in_training_only: bool
    ):
        self.groups = groups
        self._model = model
        self._in_training_only = in_training_only
        self.max_abs: dict[str, Tensor] = {}
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
            # a convolution's weight has two dimensions of channels, its input one
            channel_dim = -max(module.weight.dim() - 1, 1)
            seen = channel_max_abs(args[0], channel_dim=channel_dim).float()
            before = self.max_abs.get(name)
            self.max_abs[name] = seen if before is None else torch.maximum(before, seen)

        return update

    def scores(self) -> dict[str, Tensor]:
        """max |activation| of each channel of each group, shape (channels,), float32.

        NaN where a reader saw NaN.

        Raises:
            RuntimeError: a reader never ran; names it.
        """
        return {name: self._score(group) for name, group in self.groups.items()}

    def _score(self, group: ChannelGroup) -> Tensor:
        score = None
        for member in group.readers:
            if member.layer not in self.max_abs:
                raise RuntimeError(
                    f'{member.layer}, which reads {group.name}, was not '
                    'reached by any forward pass of the window'
                )
            seen = self.max_abs[member.layer]
            index = torch.tensor(member.index, device=seen.device)
            channel = torch.tensor(member.channel, device=seen.device)
            if score is None:
                score = seen.new_zeros(group.channels)
            score = score.scatter_reduce(0, channel, seen[index], 'amax')
        return score

    def state(self) -> dict[str, list]:
        """The running max by reader, plain types."""
        return {name: seen.tolist() for name, seen in self.max_abs.items()}

    def restore(self, state: Mapping[str, list], device: torch.device) -> None:
        """Go on from what :meth:`state` gave."""
        self.max_abs = {name: torch.tensor(seen, device=device) for name, seen in state.items()}

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def keep_speaking(
    group: ChannelGroup, scores: Tensor, *, min_channels: int, round_to: int
) -> Tensor:
    """The keep mask that removes a group's dead channels, shape (channels,), bool, CPU.

    Args:
        scores: max |activation| of each channel, shape (channels,), from a window.
        min_channels, round_to: every layer that writes the group keeps that many channels
            and a multiple of that, where it has enough.
    """
    return select_keep_mask(
        scores.cpu(),
        threshold=0.0,
        min_channels=min_channels,
        round_to=round_to,
        widths=[(torch.tensor(m.channel), m.size) for m in group.writers],
    )
