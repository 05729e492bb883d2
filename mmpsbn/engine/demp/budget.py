"""How much may be left, and how hard to push to get there."""

import math
from collections.abc import Mapping

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ...pruning.cost import measure_latency, model_cost
from ...pruning.graph import ChannelGroup
from ...pruning.plan import plan_from_keep_masks
from ...pruning.ranking import keep_masks_for_budget, rank_channels
from ..openmmlab import forward_tensors
from .settings import BudgetSettings, PruneSettings

# A budget is met within this fraction of its target.
_TOLERANCE = 0.02
# The penalty's scale changes by at most this factor an event, and stays in [1 / max, max].
_MAX_STEP, _MAX_SCALE = 2.0, 64.0
# Share of the pruning window after which the cost is to be at the target.
_ARRIVAL = 0.8


class Budget:
    """A closed loop over the prune events of a run.

    The cost left is to fall linearly from 1 to the target t over the first 80 % of the
    pruning window. After each event the penalty is multiplied by exp(2 e / (1 - t)), at most
    2 and at least 1/2, where e is how far the cost is above that line. No event removes
    more than the target allows, and once it is met within 2 %, penalty, noise and events
    stop. A latency is met through MACs: the line through (MACs, latency) of the dense model
    and of the present one says how many to aim for.

    Attributes:
        scale: what the penalty is multiplied by now.
        met: whether the target was reached.
        left: the fraction of the dense model's cost that is left.
    """

    def __init__(self, settings: BudgetSettings, prune: PruneSettings):
        self._settings = settings
        self._prune = prune
        self._dense: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._positions: dict[str, float] = {}
        self._inputs: Tensor | None = None
        self.scale = 1.0
        self.met = False

    def state(self) -> dict:
        return dict(scale=self.scale, met=self.met, dense=self._dense, now=self._now)

    def restore(self, state: dict) -> None:
        self.scale, self.met = state['scale'], state['met']
        self._dense, self._now = state['dense'], state['now']

    @property
    def _lever(self) -> str:
        return 'params' if self._settings.kind == 'params' else 'macs'

    @property
    def target(self) -> float:
        """The fraction of the dense model's cost that is to be left."""
        if self._settings.kind == 'latency_ms':
            return self._settings.value / self._dense['latency_ms']
        return self._settings.value

    @property
    def left(self) -> float:
        return self._now[self._settings.measure] / self._dense[self._settings.measure]

    def start(self, model: nn.Module, groups, positions: dict[str, float], inputs: Tensor) -> None:
        """Measure the model; of a run that is not resumed it is the dense one.

        Args:
            positions: what MACs are counted with (``count_positions``).
            inputs: one image, which a latency is measured on from now on.

        Raises:
            ValueError: the narrowest model there can be does not meet the budget, or the
                model as it is meets it already.
        """
        self._positions, self._inputs = positions, inputs
        self._now = self._measure(model)
        if self._dense:
            return
        self._dense = dict(self._now)
        if self.target >= 1:
            raise ValueError(f'{self._settings} is met by the model as it is: {self._dense}')
        nothing = {name: torch.zeros(group.channels) for name, group in groups.items()}
        _, least = self._nearest(model, groups, nothing, 0.0)
        if self._settings.kind != 'latency_ms' and least > self._aim() * (1 + _TOLERANCE):
            raise ValueError(
                f'{self._settings} cannot be met: with every prunable channel gone, '
                f'{least / self._dense[self._lever]:.1%} of the {self._lever} are left (widths in '
                f'multiples of {self._prune.round_to}, at least {self._prune.min_channels}); ask '
                'for more than that, or make more layers prunable'
            )

    def limit(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        keep_masks: dict[str, Tensor],
        *,
        last: bool,
    ) -> tuple[dict[str, Tensor], bool]:
        """What of a removal keeps the target, and whether live channels are in it.

        At the last event, and if live channels are allowed to go, those with the smallest
        |gamma| fill what is missing; of groups without a mask nothing goes.
        """
        if not keep_masks:
            return keep_masks, False
        plan = plan_from_keep_masks(model, groups, keep_masks)
        cost = getattr(model_cost(model, self._positions, plan.shapes_after()), self._lever)
        groups = {name: groups[name] for name in keep_masks}
        if cost < self._aim():
            scores = rank_channels(model, groups, criterion='l1', seed=0)
            for name, keep_mask in keep_masks.items():
                scores[name][keep_mask] = math.inf
            return self._nearest(model, groups, scores, self._aim())[0], False
        if last and self._prune.allow_live and cost > self._aim() * (1 + _TOLERANCE):
            scores = rank_channels(model, groups, criterion='bn_scale', seed=0)
            for name, keep_mask in keep_masks.items():
                scores[name][~keep_mask] = -1.0
            return self._nearest(model, groups, scores, self._aim())[0], True
        return keep_masks, False

    def update(self, model: nn.Module, progress: float, *, last: bool, logger: MMLogger) -> None:
        """Steer after an event.

        Args:
            progress: share of the pruning window that is over, in [0, 1].
            last: no event follows.
        """
        self._now = self._measure(model)
        left, target = self.left, self.target
        self.met = left <= target * (1 + _TOLERANCE)
        line = 1 - (1 - target) * min(progress / _ARRIVAL, 1)
        step = math.exp(2 * (left - line) / (1 - target))
        step = min(max(step, 1 / _MAX_STEP), _MAX_STEP)
        self.scale = min(max(self.scale * step, 1 / _MAX_SCALE), _MAX_SCALE)
        measure = self._settings.measure
        if self.met:
            logger.info(
                f'budget met: {left:.1%} of the {measure} are left, {target:.1%} were asked for; '
                'penalty, noise and prune events stop'
            )
        elif last:
            logger.warning(
                f'budget missed: {left:.1%} of the {measure} are left at the last prune event, '
                f'{target:.1%} were asked for. Too few channels died under a penalty of up to '
                f'{self.scale:.3g} times its peak: raise peak or noise, train longer, or use '
                "criterion='collapsed' or allow_live=True"
            )
        else:
            logger.info(
                f'budget: {left:.1%} of the {measure} left, {line:.1%} planned by now, '
                f'{target:.1%} in the end; penalty times {self.scale:.3g}'
            )

    def _aim(self) -> float:
        """MACs or parameters to come down to."""
        dense, now = self._dense, self._now
        if self._settings.kind != 'latency_ms':
            return self.target * dense[self._lever]
        spent, saved = dense['macs'] - now['macs'], dense['latency_ms'] - now['latency_ms']
        if spent < 0.02 * dense['macs'] or saved <= 0:  # nothing to draw a line through yet
            return self.target * dense['macs']
        aim = dense['macs'] - (dense['latency_ms'] - self._settings.value) * spent / saved
        return min(max(aim, 0.0), now['macs'])

    def _nearest(self, model, groups, scores, target):
        return keep_masks_for_budget(
            model,
            groups,
            scores,
            self._positions,
            measure=self._lever,
            target=target,
            min_channels=self._prune.min_channels,
            round_to=self._prune.round_to,
        )

    def _measure(self, model: nn.Module) -> dict[str, float]:
        cost = model_cost(model, self._positions)
        measured = dict(macs=cost.macs, params=cost.params)
        if self._settings.kind == 'latency_ms':
            device = self._settings.device or str(self._inputs.device)
            latency = [1e3 * measure_latency(model, self._inputs, forward_tensors, device=device)]
            broadcast_object_list(latency)  # all ranks must act on one number
            measured['latency_ms'] = latency[0]
        return measured
