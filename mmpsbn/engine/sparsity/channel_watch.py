"""What SparsityHook knows of a model: where its channels go and what was counted of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ...functional.statistics import dead_overlap, revived_mask
from ...pruning import PrunePlan
from ...pruning.census import ChannelMap, map_channels, observe_channels, take_census
from ...pruning.cost import model_cost
from ...pruning.flow import READERS
from ...pruning.graph import ChannelGraph
from ...pruning.measures import MEASURES, ChannelCounts, Limits, count_channels, mean_universality
from ...pruning.observation import raise_on_all
from ...pruning.sparsity import idle_shares, layers_at_zero, scale_layers
from ..input_size import count_at_one_size
from ..openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..random_numbers import frozen_random_numbers
from ..ranks import reduced
from ..runner_parts import bare_model, pruning_hook
from .growth import Growth

# Measures of a whole model, beside those that count channels.
FLOPS, WEIGHTS, UNIVERSALITY, REVIVAL = (
    'flops_sparsity',
    'weight_sparsity',
    'universality',
    'revival',
)
ALL_MEASURES = (*MEASURES, FLOPS, WEIGHTS, UNIVERSALITY, REVIVAL)
NOT_GROWN = 'not_grown'  # beside the collapsed, where layers began at 0
DATA_MEASURES = (
    *(m for m, measure in MEASURES.items() if measure.needs_data),
    UNIVERSALITY,
    REVIVAL,
)


@dataclass
class Reading:
    """What was measured at one moment.

    Attributes:
        counts: measure -> channels found, by layer.
        values: measure -> number, of those that count no channels.
        not_finite: norm layers with a NaN or infinite gamma.
    """

    counts: dict[str, ChannelCounts] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)


class ChannelWatch:
    """Measures the chosen layers of a model that may lose channels between two readings.

    Args:
        limits: what counts as small; of several the first, and under the others' gamma
            collapsed filters are counted too.
        measures: of :data:`ALL_MEASURES`.
        layers: patterns of :mod:`fnmatch` for names of layers; None for all.

    Attributes:
        counted_size: of the image that MACs are counted on; empty before the first trace.
        growth: of the layers whose gamma began at 0; none before :meth:`begin`.
    """

    def __init__(
        self, limits: Sequence[Limits], measures: Sequence[str], layers: Sequence[str] | None
    ):
        self.limits, *self._further_limits = limits
        self.measures = measures
        self.layers = layers
        self._map: ChannelMap | None = None
        self._size = 0  # parameters of the model when it was last traced
        self._positions: dict[str, float] = {}
        self.counted_size: tuple[int, ...] = ()
        self.growth = Growth()
        self._plan = PrunePlan({}, {})  # what the model was pruned by when it was last followed
        self._last: dict[str, Tensor] = {}  # dead at the last reading
        self._ever: dict[str, Tensor] = {}  # dead at any

    def check_layers(self, model: nn.Module) -> None:
        """Raises ValueError for a pattern that no layer of the model fits."""
        names = [name for name, module in model.named_modules() if isinstance(module, READERS)]
        names += scale_layers(model)
        for pattern in self.layers or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f'layers: {pattern!r} fits no layer of {type(model).__name__}; '
                    f'its norm layers are {list(scale_layers(model))[:3]} and so on'
                )

    def begin(self, runner) -> None:
        """Note which layers begin at 0 in a training that is not resumed."""
        self._plan = _plan_of(runner)
        self.growth.begin(
            {
                name: self._plan.shapes.get(f'{name}.weight', (size,))[0]
                for name, size in layers_at_zero(bare_model(runner)).items()
            }
        )

    def follow(self, runner, data_batch) -> None:
        """Trace the model of a runner the first time, and where it was pruned since. A run does
        not end over it: where it fails, on any rank, there is a warning."""
        model = bare_model(runner)
        self._plan = _plan_of(runner)
        size = sum(parameter.numel() for parameter in model.parameters())
        if size == self._size:
            return
        self._size = size
        try:
            self.trace(model, runner.cfg, data_batch)
        except Exception as error:
            runner.logger.warning(f'reports of gammas and biases alone: {error}')
            return
        for pattern in self.idle_patterns(model):
            runner.logger.warning(
                f'layers: {pattern!r} fits no layer that is counted: name the norm layer '
                'behind a convolution'
            )

    def trace(self, model: nn.Module, cfg: Config, data_batch) -> None:
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

    def idle_patterns(self, model: nn.Module) -> list[str]:
        """The patterns that no layer with channels of its own fits, as the trace has shown."""
        names = scale_layers(model).keys() | self._map.readers.keys()
        return [
            pattern
            for pattern in self.layers or ()
            if not any(fnmatchcase(name, pattern) for name in names)
        ]

    @property
    def graph(self) -> ChannelGraph | None:
        """As traced last; None where that failed."""
        return None if self._map is None else self._map.graph

    def read_weights(self, model: nn.Module) -> Reading:
        """Of the chosen measures those that take no data. What has not grown since it began at 0
        has not collapsed."""
        census = take_census(model)
        kept = {name: self._plan.kept.get(f'{name}.weight', {}).get(0) for name in census}
        self.growth.update(
            {name: channels.gamma for name, channels in census.items()},
            {name: channels for name, channels in kept.items() if channels is not None},
        )
        census = self._chosen(census)
        collapsed, *further = (
            count_channels(census, 'collapsed', limits).without(
                self.growth.not_grown(threshold=limits.gamma)
            )
            for limits in (self.limits, *self._further_limits)
        )
        reading = Reading(
            {
                m: collapsed if m == 'collapsed' else count_channels(census, m, self.limits)
                for m in MEASURES
                if self._counts(m, False)
            },
            not_finite=[n for n, c in census.items() if not c.gamma.isfinite().all()],
        )
        if 'collapsed' in self.measures:
            for limits, counts in zip(self._further_limits, further):
                reading.values[f'collapsed_below_{limits.gamma:g}_fraction'] = counts.share
            not_grown = self._chosen(self.growth.not_grown(threshold=self.limits.gamma))
            if not_grown:
                reading.values[NOT_GROWN] = sum(int(mask.sum()) for mask in not_grown.values())
        if (
            census
            and self.graph is not None
            and (FLOPS in self.measures or WEIGHTS in self.measures)
        ):
            cost = model_cost(model, self._positions)
            shares = idle_shares(collapsed.masks, self.graph, cost)
            for measure, size_of in ((FLOPS, cost.macs_of), (WEIGHTS, cost.weights_of)):
                if measure in self.measures:
                    gone = sum(size * shares[name] for name, size in size_of.items())
                    reading.values[measure] = gone / max(sum(size_of.values()), 1)
        return reading

    def read_activations(self, model: nn.Module, data_batches: Iterable) -> Reading:
        """Of the chosen measures those of the activations on some batches, over all ranks."""
        with frozen_random_numbers(model):
            seen = observe_channels(
                model, self._map, data_batches, _forward_batch, all_reduce=reduced
            )
        census = self._chosen(take_census(model, self._map, seen))
        reading = Reading(
            {m: count_channels(census, m, self.limits) for m in MEASURES if self._counts(m, True)}
        )
        if UNIVERSALITY in self.measures:
            reading.values[UNIVERSALITY] = mean_universality(census)
        if REVIVAL in self.measures:
            reading.values |= self._revival(count_channels(census, 'dead', self.limits).masks)
        return reading

    def _counts(self, measure: str, needs_data: bool) -> bool:
        return measure in self.measures and MEASURES[measure].needs_data == needs_data

    def _chosen(self, by_layer: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in by_layer.items()
            if self.layers is None or any(fnmatchcase(name, pattern) for pattern in self.layers)
        }

    def _revival(self, dead: dict[str, Tensor]) -> dict[str, float]:
        """Of layers seen before, and not pruned since: channels that came back since the last
        reading, and the overlap of the dead with all that ever were."""
        known = [
            n for n, mask in dead.items() if n in self._last and len(self._last[n]) == len(mask)
        ]
        values = {}
        if known:
            now = torch.cat([dead[name] for name in known])
            values['revived'] = int(
                revived_mask(torch.cat([self._last[name] for name in known]), now).sum()
            )
            ever = torch.cat([self._ever[name] for name in known])
            values['dead_overlap'] = dead_overlap(ever, now)
        self._ever = {n: m | self._ever[n] if n in known else m for n, m in dead.items()}
        self._last = dead
        return values


def _plan_of(runner) -> PrunePlan:
    """What the run has pruned its model by so far."""
    hook = pruning_hook(runner)
    return PrunePlan({}, {}) if hook is None else hook.pruner.structure.plan


def _forward_batch(model: nn.Module, data_batch):
    return forward_tensors(model, example_inputs(model, data_batch, None))
