"""What one checkpoint holds: its channels, what was seen of them, and what it scores."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ...functional.checks import is_count, is_number
from ...functional.statistics import collapsed_mask
from ...layers import PostShift
from ...pruning.census import LayerChannels, map_channels, observe_channels, take_census
from ...pruning.cost import Cost, count_positions, model_cost
from ...pruning.graph import ChannelGraph
from ...pruning.sparsity import scale_layers, scales_clamped

_EMPTY = 'the data set is empty: no sample to look at; leave out --data'
Trace = Callable[[nn.Module, Tensor], tuple[ChannelGraph, Tensor]]


@dataclass(frozen=True)
class Settings:
    """What counts as small, and how much is looked at.

    Attributes:
        thresholds: on |gamma|, > 0; the first one is what "collapsed" means in the words.
        eps: max |a| up to it is dead, >= 0.
        num_samples: samples of the data that activations are taken of, >= 1.
        score: whether the model is scored as it is and with the filters under each threshold
            clamped, on the whole data set.
    """

    thresholds: tuple[float, ...]
    eps: float
    num_samples: int
    score: bool

    def __post_init__(self):
        if not self.thresholds or not all(is_number(t) and t > 0 for t in self.thresholds):
            raise ValueError(f'--thresholds must be numbers > 0, got {list(self.thresholds)}')
        # by six digits, as the columns are called
        if len({f'{t:g}' for t in self.thresholds}) < len(self.thresholds):
            raise ValueError(f'--thresholds must differ, got {list(self.thresholds)}')
        if not (is_number(self.eps) and self.eps >= 0):
            raise ValueError(f'--eps must be a finite number >= 0, got {self.eps}')
        if not is_count(self.num_samples):
            raise ValueError(f'--num-samples must be an int >= 1, got {self.num_samples}')


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint.

    Attributes:
        name: of the checkpoint, as the page calls it.
        layers: the census, by layer, in the model's order.
        kept: layer -> the channels of the unpruned model that are left, where some are gone.
        graph, cost: None where the model was not traced, and then ``untraced`` says why.
        input_shape: of the batch of one sample that MACs are counted on; None untraced.
        samples: how many samples activations were taken of; 0 without data.
        scores: metric -> value of the model as it is; empty if it was not scored.
        clamped_scores: threshold -> the same with the filters below it clamped.
        step: optimizer steps it was trained for; None if it does not say.
        has_psbn: whether the model has psBN layers, or others that are shifted.
        not_grown: threshold -> layer whose gamma began at 0 -> which of its channels are below
            the threshold and had not grown before, shape (C,), bool.
        growth_from: what tells that they had not: 'record' (SparsityHook's, in the checkpoint),
            'checkpoints' (several), or None: one checkpoint alone cannot tell them from those
            that have collapsed.
    """

    name: str
    layers: dict[str, LayerChannels]
    kept: dict[str, tuple[int, ...]]
    graph: ChannelGraph | None
    cost: Cost | None
    input_shape: tuple[int, ...] | None
    untraced: str | None
    samples: int
    scores: dict[str, float]
    clamped_scores: dict[float, dict[str, float]]
    step: int | None
    has_psbn: bool
    not_grown: dict[float, dict[str, Tensor]] = field(default_factory=dict)
    growth_from: str | None = None


def take_snapshot(
    model: nn.Module,
    *,
    name: str,
    example: Tensor | None,
    trace: Trace,
    forward_fn: Callable[[nn.Module, Any], Any],
    batches: Iterable[Tensor] | None,
    score: Callable[[nn.Module], Mapping[str, float]] | None,
    settings: Settings,
    kept: Mapping[str, tuple[int, ...]],
    step: int | None,
) -> Snapshot:
    """Look at a model. It is not changed.

    Args:
        example: a batch of one sample to trace; None leaves MACs and activations out.
        trace: ``trace(model, example)`` returns the graph and what it was traced on.
        batches: inputs for activations; None without data.
        score: None, or not ``settings.score``, leaves the scores out.

    Raises:
        ValueError: the data set is empty.
    """
    graph = cost = channel_map = observed = None
    untraced = 'no input size is known: give --input-size' if example is None else None
    samples = 0
    if batches is not None and example is None:
        raise ValueError(_EMPTY)
    if example is not None:
        try:
            graph, example = trace(model, example)
        except RuntimeError as error:
            untraced = str(error).splitlines()[0]
    if graph is not None:
        cost = model_cost(model, count_positions(model, example, forward_fn))
        channel_map = map_channels(model, graph, example, forward_fn)
    if batches is not None and channel_map is not None and channel_map.readers:
        counted = _Counted(_first(batches, settings.num_samples))
        shown = track(
            counted,
            description=f'{name}: activations',
            total=None,
            console=Console(stderr=True),
        )
        observed = observe_channels(model, channel_map, _not_empty(shown), forward_fn)
        samples = counted.samples
    scores, clamped = {}, {}
    if score is not None and settings.score:
        scores = dict(score(model))
        clamped = _clamped_scores(model, score, scores, settings.thresholds)
    return Snapshot(
        name=name,
        layers=take_census(model, channel_map, observed),
        kept=dict(kept),
        graph=graph,
        cost=cost,
        input_shape=tuple(example.shape) if graph is not None else None,
        untraced=untraced,
        samples=samples,
        scores=scores,
        clamped_scores=clamped,
        step=step,
        has_psbn=any(isinstance(module, PostShift) for module in model.modules()),
    )


def _clamped_scores(
    model: nn.Module,
    score: Callable[[nn.Module], Mapping[str, float]],
    scores: Mapping[str, float],
    thresholds: Iterable[float],
) -> dict[float, dict[str, float]]:
    """Scores with the filters below each threshold clamped. The same filters are scored once,
    and none at all like the model as it is."""
    gammas = [layer.weight.detach() for layer in scale_layers(model).values()]
    known = {0: dict(scores)}
    found = {}
    for threshold in sorted(thresholds):
        below = sum(int(collapsed_mask(g, threshold=threshold).sum()) for g in gammas)
        if below not in known:
            with scales_clamped(model, threshold=threshold):
                known[below] = dict(score(model))
        found[threshold] = known[below]
    return found


class _Counted:
    """Batches, and how many samples they held."""

    def __init__(self, batches: Iterable[Tensor]):
        self._batches = batches
        self.samples = 0

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._batches:
            self.samples += len(batch)
            yield batch


def _first(batches: Iterable[Tensor], num_samples: int) -> Iterator[Tensor]:
    for batch in batches:
        yield batch[:num_samples]
        num_samples -= len(batch)
        if num_samples <= 0:
            return


def _not_empty(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None or not len(first):
        raise ValueError(_EMPTY)
    return itertools.chain([first], iterator)
