"""What the layers of a model read, over a data set: statistics of every channel."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.activations import ActivationStatistics, activation_statistics
from .flow import READERS, Call
from .forward import ForwardFn, call_with, first_argument, input_channel_dim, observing


def observe_activations(
    model: nn.Module,
    batches: Iterable[Any],
    forward_fn: ForwardFn = call_with,
    *,
    layers: Iterable[str] | None = None,
    all_reduce: Callable[[Tensor, str], Tensor] | None = None,
) -> dict[str, ActivationStatistics]:
    """Convolution or linear layer -> the statistics of its input channels, in eval mode.

    What a layer reads is what counts of the channels: after the ReLU, and in a residual stream
    after the addition. A layer called several times in one pass, or on windows or regions of
    a picture, counts each as samples of their own. The activations are not kept.

    Args:
        model: any module, not changed.
        batches: inputs on the model's device.
        forward_fn: ``forward_fn(model, batch)``; by default ``model(batch)``, a tuple being
            arguments and a dict keyword arguments.
        layers: names; by default every convolution and linear layer. One that no batch
            reaches has statistics of 0 samples.
        all_reduce: ``all_reduce(tensor, op)`` returns the element-wise ``'sum'`` or ``'max'``
            over the ranks, each of which observes batches of its own. Called three times.

    Raises:
        ValueError: nothing to observe: no such layer, or no batch reached one.
        RuntimeError: a pass failed on another rank; on that one its own error.
    """
    names = [n for n, m in model.named_modules() if isinstance(m, READERS)]
    if layers is not None:
        chosen = set(layers)
        unknown = chosen.difference(names)
        if unknown:
            raise ValueError(f'no convolution or linear layer is called {sorted(unknown)}')
        names = [name for name in names if name in chosen]
    calls = dict.fromkeys(names, 1)
    observed = observe_calls(model, batches, forward_fn, calls=calls, all_reduce=all_reduce)
    return {name: statistics for (name, _), statistics in observed.items()}


def observe_calls(
    model: nn.Module,
    batches: Iterable[Any],
    forward_fn: ForwardFn,
    *,
    calls: Mapping[str, int],
    all_reduce: Callable[[Tensor, str], Tensor] | None,
) -> dict[Call, ActivationStatistics]:
    """As :func:`observe_activations`, each call of a layer in a forward pass by itself.

    Args:
        calls: layer -> how many calls, >= 1, to tell apart; further ones count with the last.
    """
    if not calls:
        raise ValueError(f'{type(model).__name__} has no convolution or linear layer to observe')
    observed: dict[Call, ActivationStatistics] = {}
    called: Counter[str] = Counter()

    def watch(name: str, layer: nn.Module):
        channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        for k in range(calls[name]):
            observed[name, k] = ActivationStatistics.empty(channels, layer.weight.device)
        channel_dim = input_channel_dim(layer.weight)

        def update(module, args, kwargs) -> None:
            call = name, min(called[name], calls[name] - 1)
            called[name] += 1
            read = first_argument(module, args, kwargs)
            batch = activation_statistics(read, channel_dim=channel_dim)
            observed[call] = observed[call].merged(batch)

        return layer.register_forward_pre_hook(update, with_kwargs=True)

    handles = [watch(name, model.get_submodule(name)) for name in calls]
    failure = None
    try:
        with observing(model):
            for batch in batches:
                called.clear()
                forward_fn(model, batch)
    except Exception as error:
        failure = error
    finally:
        for handle in handles:
            handle.remove()
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
