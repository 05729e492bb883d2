"""What a report asks of its subject, whatever framework the model is of."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ...pruning.graph import ChannelGraph
from .course import Course


@dataclass(frozen=True)
class Loaded:
    """A model with the weights of a checkpoint, in eval mode.

    Attributes:
        kept: layer -> the channels of the unpruned model that are left, where some are gone.
        step: optimizer steps it was trained for; None if the checkpoint does not say.
        epoch_length: iterations in an epoch of its training; None if it does not say.
        growth: what SparsityHook wrote down of layers whose gamma began at 0; None without it.
    """

    model: nn.Module
    kept: dict[str, tuple[int, ...]]
    step: int | None
    epoch_length: int | None
    growth: Mapping[str, list[float]] | None = None


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Within, what torch says of a file that is no checkpoint becomes one sentence.

    Raises:
        ValueError: names the file.
    """
    try:
        yield
    except (pickle.UnpicklingError, EOFError) as error:
        what = next(iter(str(error).splitlines()), 'it is empty or cut off')
        raise ValueError(f'{path!r} is not a checkpoint that can be read: {what}') from error


class Subject(Protocol):
    """A model, its checkpoints and, optionally, data.

    Attributes:
        title: what the page is called.
        has_data: whether ``batches`` and ``score`` can be asked for.
    """

    title: str
    has_data: bool

    def load(self, checkpoint: str | None) -> Loaded: ...

    def begins_at_zero(self) -> Mapping[str, int]: ...

    def example(self, model: nn.Module) -> Tensor | None: ...

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]: ...

    def forward_fn(self, model: nn.Module, batch: Any) -> Any: ...

    def batches(self, model: nn.Module) -> Iterator[Tensor]: ...

    def score(self, model: nn.Module) -> Mapping[str, float]: ...

    def gradient_noise(self, loaded: Loaded) -> Mapping[str, float] | None: ...

    def course(self, loaded: Loaded, *, threshold: float) -> Course | None: ...
