"""How much may be left, in MACs, parameters or milliseconds."""

import copy
import math
from collections.abc import Mapping

import torch
from mmengine.dist import broadcast_object_list
from torch import Tensor, nn

from ...pruning.cost import model_cost
from ...pruning.graph import ChannelGroup
from ...pruning.plan import plan_from_keep_masks
from ...pruning.ranking import keep_masks_for_budget, uniform_scores
from ...pruning.surgery import apply_plan
from .latency import milliseconds
from .settings import BudgetSettings, PruneSettings

# A budget is met within this fraction of its target; a clock is less exact than a count.
_TOLERANCE, _LATENCY_TOLERANCE = 0.02, 0.05
# Multiples of which widths may be, where the clock is to choose one.
_MULTIPLES = (1, 4, 8, 16)
# What a larger multiple must gain, for it leaves less choice.
_LEAST_GAIN = 0.05


class Budget:
    """What a model costs now, at the run's start, and is to cost in the end.

    A latency is met through MACs: the line through (MACs, latency) of the model at the start and of
    the present one says how many to aim for.

    Args:
        free_widths: of a latency, ``round_to`` is the multiple that the clock likes.

    Attributes:
        left: the fraction of the cost at the start that is left.
    """

    def __init__(self, settings: BudgetSettings, prune: PruneSettings, *, free_widths: bool):
        self._settings = settings
        self._free_widths = free_widths and settings.is_latency
        self._rounding = dict(min_channels=prune.min_channels, round_to=prune.round_to)
        self._dense: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._narrowest: dict[str, float] = {}
        self._positions: Mapping[str, float] = {}

    def state(self) -> dict:
        return dict(
            kind=self._settings.kind,
            dense=self._dense,
            now=self._now,
            narrowest=self._narrowest,
            round_to=self.round_to,
        )

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave of a budget of the same kind."""
        self._dense, self._now = state['dense'], state['now']
        self._narrowest = state['narrowest']
        if self._free_widths:
            self._rounding['round_to'] = state['round_to']

    def __str__(self) -> str:
        return str(self._settings)

    @property
    def round_to(self) -> int:
        return self._rounding['round_to']

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
    def left(self) -> float:
        return self._now[self.measure] / self._dense[self.measure]

    @property
    def met(self) -> bool:
        return self.left <= self.target * (1 + self._tolerance)

    @property
    def _tolerance(self) -> float:
        return _LATENCY_TOLERANCE if self._settings.is_latency else _TOLERANCE

    def start(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        positions: Mapping[str, float],
        image: Tensor,
        whole: str,
    ) -> None:
        """Measure the model; of a run that is not resumed it is the one at the start.

        Args:
            groups, whole: see :meth:`check_reach`.
            image: shape (1, C, H, W), for the clock.

        Raises:
            ValueError: the budget cannot be met, or is met by the model as it is.
        """
        self._positions, self._image = positions, image
        self.count(model)
        if not self._dense:
            self._dense = dict(self._now)
            if self.target >= 1:
                raise ValueError(f'{self} is met by the model as it is: {self._dense}')
            if self._free_widths:
                self._rounding['round_to'] = self._fastest_multiple(model, groups)
            if self._settings.is_latency:
                narrow = self._pruned(model, groups, _nothing(groups), 0.0)
                macs = model_cost(narrow, self._positions).macs
                self._narrowest = dict(macs=macs, latency_ms=self._milliseconds(narrow))
        self.check_reach(model, groups, whole)

    def check_reach(self, model: nn.Module, groups: Mapping[str, ChannelGroup], whole: str) -> None:
        """Is what is left enough, with all gone of these groups that can go?

        Args:
            groups: that may lose channels.
            whole: in words, what else there is, and why it stays.

        Raises:
            ValueError: it is not; a latency is looked at once, at the start.
        """
        if self._settings.is_latency:
            least = self._narrowest['latency_ms'] / self._dense['latency_ms']
        else:
            least = self.nearest(model, groups, _nothing(groups), 0.0)[1] / self._dense[self.lever]
        if least > self.target * (1 + self._tolerance):
            raise ValueError(
                f'{self} cannot be met: with every channel gone that can go, {least:.1%} of the '
                f'{self.measure} are left (widths in multiples of {self.round_to}, at least '
                f'{self._rounding["min_channels"]}); ask for more than that, or make more layers '
                f'prunable; left whole: {whole or "none"}'
            )

    def count(self, model: nn.Module) -> None:
        """Measure the model as it is."""
        cost = model_cost(model, self._positions)
        self._now = dict(macs=cost.macs, params=cost.params)
        if self._settings.is_latency:
            self._now['latency_ms'] = self._milliseconds(model)

    def _milliseconds(self, model: nn.Module) -> float:
        device = self._settings.device or str(self._image.device)
        measured = [milliseconds(model, self._image, device)]
        broadcast_object_list(measured)  # all ranks must act on one number
        return measured[0]

    def _fastest_multiple(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> int:
        """The multiple of which widths are that takes least time for as many MACs."""
        best, shortest = 1, math.inf
        for multiple in _MULTIPLES:
            self._rounding['round_to'] = multiple
            narrow = self._pruned(model, groups, uniform_scores(model, groups), self._aim())
            if abs(model_cost(narrow, self._positions).macs / self._aim() - 1) > self._tolerance:
                continue  # so narrow a model that this multiple is too coarse
            time = self._milliseconds(narrow)
            if time < shortest * (1 - _LEAST_GAIN):
                best, shortest = multiple, time
        return best

    def _pruned(self, model: nn.Module, groups, scores, target: float) -> nn.Module:
        """A copy with as near as possible to ``target`` MACs or parameters."""
        narrow = copy.deepcopy(model)
        keep_masks, _ = self.nearest(model, groups, scores, target)
        apply_plan(narrow, plan_from_keep_masks(narrow, groups, keep_masks))
        return narrow

    def planned(self, share: float) -> float:
        """MACs or parameters when a share of what must go has gone."""
        dense = self._dense[self.lever]
        return dense - share * (dense - self._aim())

    def nearest(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        scores: Mapping[str, Tensor],
        target: float,
    ) -> tuple[dict[str, Tensor], float]:
        """:func:`keep_masks_for_budget`, with a target in MACs or parameters."""
        return keep_masks_for_budget(
            model,
            groups,
            scores,
            self._positions,
            measure=self.lever,
            target=target,
            **self._rounding,
        )

    def _aim(self) -> float:
        """MACs or parameters to come down to."""
        dense, now = self._dense, self._now
        if not self._settings.is_latency:
            return self.target * dense[self.lever]
        spent, saved = dense['macs'] - now['macs'], dense['latency_ms'] - now['latency_ms']
        if spent < 0.02 * dense['macs'] or saved <= 0:  # nothing to draw a line through yet
            return self.target * dense['macs']
        aim = dense['macs'] - (1 - self.target) * dense['latency_ms'] * spent / saved
        return min(max(aim, self._least_aim()), now['macs'])

    def _least_aim(self) -> float:
        """Half of what the line through the first and the narrowest model says: a line through two
        models that hardly differ in time may lead anywhere."""
        dense, least = self._dense, self._narrowest
        share = (self.target * dense['latency_ms'] - least['latency_ms']) / (
            dense['latency_ms'] - least['latency_ms']
        )
        return (least['macs'] + max(share, 0.0) * (dense['macs'] - least['macs'])) / 2


def _nothing(groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """Scores by which all goes."""
    return {name: torch.zeros(group.channels) for name, group in groups.items()}
