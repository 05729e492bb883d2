"""What a report asks of its subject, whatever framework the model is of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ...pruning.graph import ChannelGraph


@dataclass(frozen=True)
class Loaded:
    """A model with the weights of a checkpoint."""

    model: nn.Module  # in eval mode
    kept: dict[str, tuple[int, ...]]  # layer -> its channels that are left, where some are gone
    growth: Mapping[str, list[float]] | None = None  # SparsityHook's, of what began at gamma = 0


class Subject(Protocol):
    """A model, its checkpoints and, optionally, data.

    Attributes:
        title: what the page is called.
        has_data: whether ``batches`` and ``score`` can be asked for.
    """

    title: str
    has_data: bool

    def load(self, checkpoint: str | None) -> Loaded: ...

    def example(self, model: nn.Module) -> Tensor | None:
        """A batch of one sample to trace the model on; None where no size is known."""

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]: ...

    def forward_fn(self, model: nn.Module, batch: Any) -> Any: ...

    def batches(self, model: nn.Module) -> Iterator[Tensor]: ...

    def score(self, model: nn.Module) -> Mapping[str, float]: ...


def noise_of(size: Sequence[int], device: str) -> Tensor:
    """One sample, always the same. Of two numbers, three channels come before."""
    shape = (1, 3, *size) if len(size) == 2 else (1, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def progress(items: Iterable, description: str, total: int | None = None) -> Iterable:
    """The items, with a bar on standard error."""
    return track(items, description=description, total=total, console=Console(stderr=True))
