"""How much may be left, in MACs, parameters or milliseconds."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...pruning.cost import model_cost
from ...pruning.graph import ChannelGroup
from ...pruning.plan import plan_from_keep_masks
from ...pruning.ranking import (
    BUDGET_TOLERANCE,
    LIKED_MULTIPLES,
    is_near,
    keep_masks_for_budget,
    layerwise_l1_scores,
)
from ...pruning.surgery import apply_plan
from ..ranks import of_rank_0
from .latency import milliseconds
from .settings import BudgetSettings, PruneSettings

_LATENCY_TOLERANCE = 0.05  # a clock is less exact than a count
# Multiples of which widths may be where the budget is a time, and the clock says which.
_MULTIPLES = (16, 8, 4, 2, 1)
# What a larger multiple must gain, for it leaves less choice.
_LEAST_GAIN = 0.05
# Copies that are measured for a latency.
_MOST_COPIES = 4


class Budget:
    """What a model costs now, at the run's start, and is to cost in the end.

    A latency is met through MACs. How many is found at the start, on copies with widths such as
    they will be in the end: on the way, where widths are odd, the clock says nothing of that.

    Args:
        free_widths: in the end widths are of LIKED_MULTIPLES, or of a time of what the clock
            likes. If not, ``prune.round_to`` says.

    Attributes:
        left: the fraction of the cost at the start that is left; None of a time on the way, where
            odd widths can take longer than the dense model.
    """

    def __init__(self, settings: BudgetSettings, prune: PruneSettings, *, free_widths: bool):
        self._settings = settings
        self._free_widths = free_widths
        self._min_channels = prune.min_channels
        self._multiples = LIKED_MULTIPLES if free_widths else (prune.round_to,)
        self._dense: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._narrowest: dict[str, float] = {}
        self._macs_in_time: float | None = None  # that a latency allows
        self._positions: Mapping[str, float] = {}

    def state(self) -> dict:
        return dict(
            kind=self._settings.kind,
            dense=self._dense,
            now=self._now,
            narrowest=self._narrowest,
            macs_in_time=self._macs_in_time,
            multiples=self._multiples,
        )

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave of a budget of the same kind."""
        self._dense, self._now = state['dense'], state['now']
        self._narrowest, self._macs_in_time = state['narrowest'], state['macs_in_time']
        if self._free_widths:
            self._multiples = state['multiples']

    def __str__(self) -> str:
        return str(self._settings)

    @property
    def widths(self) -> str:
        """Which there may be, in words."""
        first, *finer = self._multiples
        more = f', or {", ".join(map(str, finer))} where that is too coarse' if finer else ''
        return f'multiples of {first}{more}'

    @property
    def lever(self) -> str:
        """What is counted when channels are chosen."""
        return 'params' if self._settings.kind == 'params' else 'macs'

    @property
    def measure(self) -> str:
        return self._settings.measure

    @property
    def target(self) -> float:
        """The fraction of the cost at the start that is to be left."""
        if self._settings.kind == 'latency_ms':
            return self._settings.value / self._dense['latency_ms']
        return self._settings.value

    @property
    def left(self) -> float | None:
        now = self._now.get(self.measure)
        return None if now is None else now / self._dense[self.measure]

    @property
    def met(self) -> bool:
        return self.left is not None and self.left <= self.target * (1 + self._tolerance)

    @property
    def _tolerance(self) -> float:
        return _LATENCY_TOLERANCE if self._settings.is_latency else BUDGET_TOLERANCE

    def start(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        positions: Mapping[str, float],
        image: Tensor,
        whole: str,
    ) -> float:
        """Measure the model; of a run that is not resumed it is the one at the start.

        Args:
            groups, whole: see :meth:`check_reach`.
            image: shape (1, C, H, W), for the clock.

        Returns:
            See :meth:`check_reach`.

        Raises:
            ValueError: the budget cannot be met, or is met by the model as it is.
        """
        self._positions, self._image = positions, image
        self.count(model, clock=not self._now or 'latency_ms' in self._now)
        if not self._dense:
            self._dense = dict(self._now)
            if self.target >= 1:
                now = self._dense['latency_ms']  # a fraction is below 1
                raise ValueError(f'{self} is met by the model as it is, which takes {now:.3g} ms')
            if self._free_widths and self._settings.is_latency:
                fastest = self._fastest_multiple(model, groups)
                self._multiples = tuple(m for m in _MULTIPLES if m <= fastest)
            if self._settings.is_latency:
                masks, _ = self._with_all_gone(model, groups)
                narrow = _pruned(model, groups, masks)
                macs = model_cost(narrow, self._positions).macs
                self._narrowest = dict(macs=macs, latency_ms=self._milliseconds(narrow))
        least = self.check_reach(model, groups, whole)
        if self._settings.is_latency and self._macs_in_time is None:
            self._macs_in_time = self._find_macs_in_time(model, groups)
        return least

    def check_reach(
        self, model: nn.Module, groups: Mapping[str, ChannelGroup], whole: str
    ) -> float:
        """Is what is left enough, with all gone of these groups that can go?

        Args:
            groups: that may lose channels.
            whole: in words, what else there is, and why it stays.

        Returns:
            The least that can be left of the cost at the start.

        Raises:
            ValueError: it is not enough; a latency is looked at once, at the start.
        """
        if self._settings.is_latency:
            least = self._narrowest['latency_ms'] / self._dense['latency_ms']
        else:
            _, least = self._with_all_gone(model, groups)
            least /= self._dense[self.lever]
        if least > self.target * (1 + self._tolerance):
            raise ValueError(
                f'{self} cannot be met: with every channel gone that can go, {least:.1%} of the '
                f'{self.measure} are left (widths in multiples of {self._multiples[-1]}, at least '
                f'{self._min_channels}); ask for more than that, or make more layers '
                f'prunable; left whole: {whole or "none"}'
            )
        return least

    def count(self, model: nn.Module, *, clock: bool) -> None:
        """Measure the model as it is.

        Args:
            clock: the time too, if the budget is one: before the first cut and after the last.
        """
        cost = model_cost(model, self._positions)
        self._now = dict(macs=cost.macs, params=cost.params)
        if self._settings.is_latency and clock:
            self._now['latency_ms'] = self._milliseconds(model)

    def _milliseconds(self, model: nn.Module) -> float:
        device = self._settings.device or str(self._image.device)
        return of_rank_0(milliseconds(model, self._image, device))

    def _fastest_multiple(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> int:
        """The multiple of which widths are that takes least time for as many MACs."""
        best, shortest = 1, math.inf
        aim, scores = self.target * self._dense['macs'], layerwise_l1_scores(model, groups)
        for multiple in reversed(_MULTIPLES):
            masks, left = self.nearest(model, groups, scores, aim, multiples=[multiple])
            if not is_near(left, aim, self._tolerance):
                continue  # so narrow a model that this multiple is too coarse
            time = self._milliseconds(_pruned(model, groups, masks))
            if time < shortest * (1 - _LEAST_GAIN):
                best, shortest = multiple, time
        return best

    @property
    def counted(self) -> float:
        """The fraction of the MACs or parameters at the start that is left."""
        return self._now[self.lever] / self._dense[self.lever]

    def planned(self, share: float) -> float:
        """The same when a share of what must go has gone."""
        return 1 - share * (1 - self._aim() / self._dense[self.lever])

    def words(self, share: float) -> str:
        """What is left, and what was planned when a share of what must go has gone."""
        measure, left, planned = self.measure, self.left, self.target
        if share < 1 or left is None:
            measure, left, planned = self.lever, self.counted, self.planned(share)
        return f'{left:.1%} of the {measure} left, {planned:.1%} planned'

    def choose(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        scores: Mapping[str, Tensor],
        share: float,
    ) -> dict[str, Tensor]:
        """What stays when a share of what must go has gone: until the last cut nothing that is to
        stay after it.

        Only after the last cut do widths have to be multiples. Were they always, a small step would
        take a whole block from one layer and nothing from the others (docs/results.md).

        Args:
            scores: group name -> shape (channels,), higher = kept.

        Returns:
            Keep masks by group.
        """
        in_the_end, _ = self.nearest(model, groups, scores, self._aim())
        if share == 1:
            return in_the_end
        may_go = {name: scores[name].where(~keep, math.inf) for name, keep in in_the_end.items()}
        planned = self.planned(share) * self._dense[self.lever]
        return self.nearest(model, groups, may_go, planned, multiples=[1])[0]

    def _with_all_gone(self, model: nn.Module, groups: Mapping[str, ChannelGroup]):
        """:meth:`nearest` with all gone that can go."""
        nothing = {name: torch.zeros(group.channels) for name, group in groups.items()}
        return self.nearest(model, groups, nothing, 0.0, multiples=self._multiples[-1:])

    def _find_macs_in_time(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> float:
        """By false position between the narrowest model and the one at the start."""
        below, above = self._narrowest, self._dense
        scores, time = layerwise_l1_scores(model, groups), self.target * self._dense['latency_ms']
        for _ in range(_MOST_COPIES):
            aim = _on_the_line(below, above, time)
            masks, macs = self.nearest(model, groups, scores, aim)
            at = dict(macs=macs, latency_ms=self._milliseconds(_pruned(model, groups, masks)))
            if is_near(at['latency_ms'], time):
                return macs
            below, above = (below, at) if at['latency_ms'] > time else (at, above)
        return _on_the_line(below, above, time)

    def nearest(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        scores: Mapping[str, Tensor],
        target: float,
        *,
        multiples: Sequence[int] | None = None,
    ) -> tuple[dict[str, Tensor], float]:
        """:func:`keep_masks_for_budget`, with a target in MACs or parameters, and the widths of
        the end unless others are given."""
        masks, left, _ = keep_masks_for_budget(
            model,
            groups,
            scores,
            self._positions,
            measure=self.lever,
            target=target,
            min_channels=self._min_channels,
            multiples=multiples or self._multiples,
            tolerance=self._tolerance,
        )
        return masks, left

    def _aim(self) -> float:
        """MACs or parameters to come down to."""
        dense, now = self._dense, self._now
        if not self._settings.is_latency:
            return self.target * dense[self.lever]
        near = now['macs'] <= self._macs_in_time * (1 + self._tolerance)
        if not near or 'latency_ms' not in now:
            return self._macs_in_time
        # what was chosen takes longer than the copy did
        time = self.target * dense['latency_ms']
        return min(max(_on_the_line(self._narrowest, now, time), 1.0), now['macs'])


def _on_the_line(one: Mapping[str, float], other: Mapping[str, float], time: float) -> float:
    """The MACs at which the line through two models has a time, in milliseconds."""
    share = (time - one['latency_ms']) / (other['latency_ms'] - one['latency_ms'])
    return one['macs'] + share * (other['macs'] - one['macs'])


def _pruned(model: nn.Module, groups, keep_masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy."""
    narrow = copy.deepcopy(model)
    apply_plan(narrow, plan_from_keep_masks(narrow, groups, keep_masks))
    return narrow
