"""What is measured of a model in training: where its channels go, and what is counted of them."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from ...pruning import PrunePlan
from ...pruning.census import ChannelMap, LayerChannels, map_channels, take_census
from ...pruning.cost import model_cost
from ...pruning.flow import READERS
from ...pruning.graph import ChannelGraph
from ...pruning.measures import MEASURES, ChannelCounts, Limits, count_channels, mean_universality
from ...pruning.observation import observe_channels, raise_on_all
from ...pruning.sparsity import idle_shares, layers_at_zero, scale_layers
from ..input_size import count_at_one_size
from ..openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..random_numbers import frozen_random_numbers
from ..ranks import reduced
from ..runner_parts import bare_model, pruning_hook
from .growth import Growth, growth_of
from .reading import FLOPS, NOT_GROWN, REVIVAL, UNIVERSALITY, WEIGHTS, Reading
from .revival import Revival


class ChannelWatch:
    """Measures the chosen layers of a model that may lose channels between two readings.

    Args:
        limits: what counts as small; of several the first, and under the others' gamma
            collapsed filters are counted too.
        measures: of :data:`.ALL_MEASURES`.
        layers: patterns of :mod:`fnmatch` for names of layers; None for all.

    Attributes:
        counted_size: of the image that MACs are counted on; empty before the first trace.
    """

    def __init__(
        self, limits: Sequence[Limits], measures: Sequence[str], layers: Sequence[str] | None
    ):
        self.limits, *self._further_limits = limits
        self.measures = measures
        self.layers = layers
        self.counted_size: tuple[int, ...] = ()
        self._map: ChannelMap | None = None
        self._positions: dict[str, float] = {}
        self._size = 0  # parameters of the model when it was last traced
        self._growth = Growth()
        self._revival = Revival()

    def check_layers(self, model: nn.Module) -> None:
        """Raises ValueError for a pattern that no layer of the model fits."""
        names = [name for name, module in model.named_modules() if isinstance(module, READERS)]
        for pattern in self._unmatched([*names, *scale_layers(model)]):
            raise ValueError(
                f'layers: {pattern!r} fits no layer of {type(model).__name__}; '
                f'its norm layers are {list(scale_layers(model))[:3]} and so on'
            )

    def begin(self, runner) -> None:
        """Where training begins, or goes on: take up the course of what began at 0."""
        self._growth = growth_of(runner)
        if runner.iter:  # the checkpoint tells
            return
        shapes = _plan_of(runner).shapes
        at_zero = layers_at_zero(bare_model(runner)).items()
        self._growth.begin({n: shapes.get(f'{n}.weight', (size,))[0] for n, size in at_zero})

    def follow(self, runner, data_batch) -> None:
        """Trace the model of a runner the first time, and where it was pruned since. A run does
        not end over it: where it fails, on any rank, there is a warning."""
        model = bare_model(runner)
        size = sum(parameter.numel() for parameter in model.parameters())
        if size == self._size:
            return
        self._size = size
        try:
            self._trace(model, runner.cfg, data_batch)
        except Exception as error:
            runner.logger.warning(f'reports of gammas and biases alone: {error}')
            return
        for pattern in self._unmatched([*scale_layers(model), *self._map.readers]):
            runner.logger.warning(
                f'layers: {pattern!r} fits no layer that is counted: name the norm layer '
                'behind a convolution'
            )

    def _trace(self, model: nn.Module, cfg: Config, data_batch) -> None:
        """Look anew where the channels go. Until then, and where this fails, only gammas and
        biases are read.

        Raises:
            RuntimeError, TypeError: the model does not run on the batch's inputs alone, here or
                on another rank.
        """
        self._map, channel_map, failure = None, None, None
        try:
            graph, inputs = trace_at_any_size(model, example_inputs(model, data_batch, 1))
            self._positions, self.counted_size = count_at_one_size(model, cfg, inputs)
            channel_map = map_channels(model, graph, inputs, forward_tensors)
        except Exception as error:
            failure = error
        raise_on_all(failure, reduced, next(model.parameters()).device)
        self._map = channel_map

    def _unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns that none of the names fits."""
        return [
            pattern
            for pattern in self.layers or ()
            if not any(fnmatchcase(name, pattern) for name in names)
        ]

    @property
    def graph(self) -> ChannelGraph | None:
        """As traced last; None where that failed."""
        return None if self._map is None else self._map.graph

    def note_growth(self, runner) -> dict[str, LayerChannels]:
        """Follow what began at 0; the scales and biases of the chosen layers."""
        census = take_census(bare_model(runner))
        kept = {n: _plan_of(runner).kept.get(f'{n}.weight', {}) for n in census}
        self._growth.update(
            {name: channels.gamma for name, channels in census.items()},
            {name: dims[0] for name, dims in kept.items() if 0 in dims},
        )
        return self._chosen(census)

    def read_weights(self, runner) -> Reading:
        """Of the chosen measures those that take no data, with a warning about a gamma that is NaN
        or infinite. What has not grown since it began at 0 has not collapsed."""
        census = self.note_growth(runner)
        for name, channels in census.items():
            if not channels.gamma.isfinite().all():
                runner.logger.warning(f'{name}: gamma is NaN or inf')
        collapsed = self._collapsed(census, self.limits)
        reading = Reading(
            {
                m: collapsed if m == 'collapsed' else count_channels(census, m, self.limits)
                for m in MEASURES
                if self._counts(m, False)
            }
        )
        if 'collapsed' in self.measures:
            for limits in self._further_limits:
                share = self._collapsed(census, limits).share
                reading.values[f'collapsed_below_{limits.gamma:g}_fraction'] = share
            not_grown = self._chosen(self._growth.not_grown(threshold=self.limits.gamma))
            if not_grown:
                reading.values[NOT_GROWN] = sum(int(mask.sum()) for mask in not_grown.values())
        if census and self.graph is not None:
            reading.values |= self._cost_shares(bare_model(runner), collapsed.masks)
        return reading

    def _collapsed(self, census: Mapping, limits: Limits) -> ChannelCounts:
        not_grown = self._growth.not_grown(threshold=limits.gamma)
        return count_channels(census, 'collapsed', limits).without(not_grown)

    def _cost_shares(self, model: nn.Module, collapsed: dict[str, Tensor]) -> dict[str, float]:
        """What removing the collapsed channels would save."""
        chosen = [measure for measure in (FLOPS, WEIGHTS) if measure in self.measures]
        if not chosen:
            return {}
        cost = model_cost(model, self._positions)
        shares = idle_shares(collapsed, self.graph, cost)
        size_of = {FLOPS: cost.macs_of, WEIGHTS: cost.weights_of}
        return {
            measure: sum(size * shares[name] for name, size in size_of[measure].items())
            / max(sum(size_of[measure].values()), 1)
            for measure in chosen
        }

    def read_activations(self, runner, data_batches: Iterable) -> Reading:
        """Of the chosen measures those of the activations on some batches, over all ranks."""
        model = bare_model(runner)
        with frozen_random_numbers(model):
            seen = observe_channels(
                model, self._map.readers, data_batches, _forward_batch, all_reduce=reduced
            )
        census = self._chosen(take_census(model, self._map, seen))
        reading = Reading(
            {m: count_channels(census, m, self.limits) for m in MEASURES if self._counts(m, True)}
        )
        if UNIVERSALITY in self.measures:
            reading.values[UNIVERSALITY] = mean_universality(census)
        if REVIVAL in self.measures:
            dead = count_channels(census, 'dead', self.limits).masks
            reading.values |= self._revival.update(dead)
        return reading

    def _counts(self, measure: str, needs_data: bool) -> bool:
        return measure in self.measures and MEASURES[measure].needs_data == needs_data

    def _chosen(self, by_layer: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in by_layer.items()
            if self.layers is None or any(fnmatchcase(name, pattern) for pattern in self.layers)
        }


def _plan_of(runner) -> PrunePlan:
    """What the run has pruned its model by so far."""
    hook = pruning_hook(runner)
    return PrunePlan({}, {}) if hook is None else hook.pruner.structure.plan


def _forward_batch(model: nn.Module, data_batch):
    return forward_tensors(model, example_inputs(model, data_batch, None))
