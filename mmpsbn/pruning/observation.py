"""What the layers of a model read, over a data set: statistics of every channel."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.activations import ActivationStatistics, activation_statistics
from .flow import Call
from .forward import ForwardFn, first_argument, input_channel_dim, observing


def observe_channels(
    model: nn.Module,
    readers: Mapping[str, tuple[Call, ...]],
    batches: Iterable[Any],
    forward_fn: ForwardFn,
    *,
    all_reduce: Callable[[Tensor, str], Tensor] | None = None,
) -> dict[Call, ActivationStatistics]:
    """Call of a convolution or linear layer -> the statistics of its input channels, in eval mode.

    What a layer reads is what counts of the channels: after the ReLU, and in a residual stream
    after the addition. A layer that is called on windows or regions of a picture counts each as
    samples of their own. The activations are not kept.

    Args:
        model: any module, not changed.
        readers: the calls to tell apart, by what they read (:class:`.ChannelMap`); further calls of
            a layer count with its last. What no batch reaches has statistics of 0 samples.
        batches: inputs on the model's device, for ``forward_fn(model, batch)``.
        all_reduce: ``all_reduce(tensor, op)`` returns the element-wise ``'sum'`` or ``'max'``
            over the ranks, each of which observes batches of its own. Called three times.

    Raises:
        ValueError: nothing to observe: no layer, or no batch reached one.
        RuntimeError: a pass failed on another rank; on that one its own error.
    """
    calls: dict[str, int] = {}
    for name, k in chain.from_iterable(readers.values()):
        calls[name] = max(calls.get(name, 0), k + 1)
    if not calls:
        raise ValueError(f'{type(model).__name__} has no convolution or linear layer to observe')
    observed: dict[Call, ActivationStatistics] = {}
    called: Counter[str] = Counter()

    def watch(name: str, layer: nn.Module) -> Callable:
        channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        for k in range(calls[name]):
            observed[name, k] = ActivationStatistics.empty(channels, layer.weight.device)
        channel_dim = input_channel_dim(layer.weight)

        def update(module, args, kwargs) -> None:
            # a head may be called more often for another picture; none of it is lost
            call = name, min(called[name], calls[name] - 1)
            called[name] += 1
            read = first_argument(module, args, kwargs)
            batch = activation_statistics(read, channel_dim=channel_dim)
            observed[call] = observed[call].merged(batch)

        return update

    failure = None
    try:
        with ExitStack() as hooks, observing(model):
            for name in calls:
                layer = model.get_submodule(name)
                hook = layer.register_forward_pre_hook(watch(name, layer), with_kwargs=True)
                hooks.enter_context(hook)
            for batch in batches:
                called.clear()
                forward_fn(model, batch)
    except Exception as error:  # kept: the other ranks wait in a collective
        failure = error
    raise_on_all(failure, all_reduce, next(iter(observed.values())).peak.device)
    if all_reduce is not None:
        observed = _reduced(observed, all_reduce)
    if not any(bool(statistics.values.any()) for statistics in observed.values()):
        raise ValueError(
            f'no activation was observed: batches is empty, or reaches none of {list(calls)[:5]}'
        )
    return observed


def raise_on_all(
    failure: Exception | None,
    all_reduce: Callable[[Tensor, str], Tensor] | None,
    device: torch.device,
) -> None:
    """Raise this rank's failure; without one a RuntimeError where another rank has failed, so that
    none waits in a collective for one that will not come. Nothing where none has."""
    failed = torch.tensor(int(failure is not None), device=device)
    if all_reduce is not None:
        failed = all_reduce(failed, 'max')
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError('it failed on another rank')


def _reduced(
    observed: Mapping[Call, ActivationStatistics], all_reduce: Callable[[Tensor, str], Tensor]
) -> dict[Call, ActivationStatistics]:
    """All layers in one go: a collective costs more than what it carries here."""
    sizes = [statistics.peak.numel() for statistics in observed.values()]
    columns = zip(*(vars(statistics).values() for statistics in observed.values()))
    joined = ActivationStatistics(*map(torch.cat, columns)).reduced(all_reduce)
    rows = zip(*(column.split(sizes) for column in vars(joined).values()))
    return {call: ActivationStatistics(*row) for call, row in zip(observed, rows)}
