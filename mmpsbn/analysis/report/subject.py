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
    """A model with the weights of a checkpoint; None of what the checkpoint does not say."""

    model: nn.Module  # in eval mode
    kept: dict[str, tuple[int, ...]]  # layer -> its channels that are left, where some are gone
    step: int | None  # optimizer steps it was trained for
    epoch_length: int | None  # iterations in an epoch of its training
    growth: Mapping[str, list[float]] | None = None  # SparsityHook's, of what began at gamma = 0


@dataclass(frozen=True)
class Course:
    """How a config trains.

    Attributes:
        sentence: when a filter that dies in such a run counts as collapsed.
        lrs: by what the gradient of gamma is multiplied in the end, at each step: under SGD with
            momentum m the learning rate over 1 - m; None under other optimizers and where nobody
            knows it.
    """

    sentence: str
    lrs: tuple[float, ...] | None


class Subject(Protocol):
    """A model, its checkpoints and, optionally, data. The last three are None where nothing tells.

    Attributes:
        title: what the page is called.
        has_data: whether ``batches`` and ``score`` can be asked for.
    """

    title: str
    has_data: bool

    def load(self, checkpoint: str | None) -> Loaded: ...

    def begins_at_zero(self) -> Mapping[str, int]:
        """Layer whose gamma is 0 in the model as it is built -> its channels."""

    def example(self, model: nn.Module) -> Tensor | None:
        """A batch of one sample to trace the model on; None where no size is known."""

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]: ...

    def forward_fn(self, model: nn.Module, batch: Any) -> Any: ...

    def batches(self, model: nn.Module) -> Iterator[Tensor]: ...

    def score(self, model: nn.Module) -> Mapping[str, float]: ...

    def gradient_noise(self, loaded: Loaded) -> Mapping[str, float] | None:
        """See :func:`.theorem.gradient_noise`; of what one optimizer step sees."""

    def course(self, loaded: Loaded, *, threshold: float) -> Course | None:
        """Of a run that begins with these weights."""

    def log_looks_at(self) -> tuple[str, float] | None:
        """The data and the eps by which the training log counts dead channels."""


def noise_of(size: Sequence[int], device: str) -> Tensor:
    """One sample, always the same. Of two numbers, three channels come before."""
    shape = (1, 3, *size) if len(size) == 2 else (1, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def progress(items: Iterable, description: str, total: int | None = None) -> Iterable:
    """The items, with a bar on standard error."""
    return track(items, description=description, total=total, console=Console(stderr=True))
