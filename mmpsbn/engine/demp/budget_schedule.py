"""When a budget's cuts happen, and how much is to be left after each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mmengine.dist import get_world_size
from torch import nn

from ...functional.schedules import steps_of
from ...pruning.saliency import GATE_SCORES
from ..ranks import of_rank_0
from ..runner_parts import bare_model, batch_size, epoch_length
from .settings import LAST_END, BudgetSettings

# Optimizer steps between two cuts: what the choice is made from, and time to recover.
LEAST_STEPS = 10
# More cuts choose no better, and each one verifies and traces the model.
_MOST_CUTS = 20
# Up to here channels go at once; beyond it in so many rounds, each with new scores.
_AT_ONCE, _ROUNDS = 0.5, 5
_NONE_LEFT = 'no cut is left'


@dataclass(frozen=True)
class BudgetSchedule:
    """Evenly spaced cuts; after the k-th of n, a share k / n of all that must go has gone.

    Attributes:
        events: iterations of training done at each cut, rising.
    """

    events: tuple[int, ...]

    @classmethod
    def of_run(
        cls, settings: BudgetSettings, *, finetunes: bool, iters: int, iters_per_step: int
    ) -> 'BudgetSchedule':
        """As many cuts as the window has room for, with ten optimizer steps before each, at most
        20; or ``cuts``, where it is set.

        Args:
            finetunes: see :meth:`.BudgetSettings.window`.
            iters: of the whole run.
            iters_per_step: over which gradients are accumulated.

        Raises:
            ValueError: there is no room for them, or for two; says how long a run must be. Or as
                :meth:`.BudgetSettings.window`.
        """
        window = settings.window(finetunes=finetunes)
        begin, end = (steps_of(share, iters) for share in window)
        room = int((end - begin) // (iters_per_step * LEAST_STEPS))
        cuts = settings.cuts or min(room, _MOST_CUTS)
        least = settings.cuts or 2
        if room < least:
            share = window[1] - window[0]
            needed = math.ceil(round(least * LEAST_STEPS * iters_per_step / share, 6))
            raise ValueError(
                f'{settings}: a run of {iters} iterations has no room for {least} cuts with '
                f'{LEAST_STEPS} optimizer steps before each between {window[0]:g} and '
                f'{window[1]:g} of it; train for {needed} iterations or more'
                + (', or ask for fewer cuts' if settings.cuts else '')
            )
        return cls(tuple(round(begin + (end - begin) * k / cuts) for k in range(1, cuts + 1)))

    def words(self, step: int) -> str:
        """Those that are left after ``step`` iterations."""
        ahead = [str(event) for event in self.events if event > step]
        if self.events == (1,) and ahead:  # in the first iteration
            return 'one cut before the first step'
        return f'cuts after {", ".join(ahead)} iterations' if ahead else _NONE_LEFT

    def state(self) -> dict:
        """Nothing: it follows from the settings."""
        return {}

    def restore(self, state: Mapping) -> None:
        """Nothing."""

    def has_come(self, model: nn.Module, event: int) -> bool:
        """Whether it is time at a planned event: always."""
        return True

    def next_event(self, step: int) -> int | None:
        """Iterations done at the first cut after ``step`` of them."""
        return next((event for event in self.events if event > step), None)

    def share(self, event: int) -> float:
        """Of what must go, what is to be gone after the cut at ``event``."""
        return (self.events.index(event) + 1) / len(self.events)


class EarlyCropTiming:
    """EarlyCroP's time to prune: the end of the first epoch t that hardly moves the weights,

        0 < | |theta_t - theta_0| - |theta_(t-1) - theta_0| | / |theta_0| < 1 - rho,

    with Euclidean norms over all parameters that are trainable at the start, and the fraction rho
    that is to go (2206.10451, as DemP's authors compute it: SimonDufLab/Maxwell_demon,
    ``test_earlycrop_pruning_step`` in source/utils/scores.py; EarlyCroP's own code scales the
    threshold besides by how far the first epoch goes, which their scripts do not).

    Where no epoch does, the cut comes with the last one before 0.9 of the training.

    Args:
        left: 1 - rho.
        epoch: iterations of one.
        iters: of the whole run.
    """

    def __init__(self, model: nn.Module, *, left: float, epoch: int, iters: int):
        self._left, self._epoch = left, epoch
        self._last = int(LAST_END * iters) // epoch * epoch
        if not self._last:
            raise ValueError(
                f"budget timing 'early' looks at the ends of epochs, and none of {epoch} "
                f'iterations ends before {LAST_END:g} of a run of {iters}; train for '
                f'{int(epoch / LAST_END) + 1} iterations or more'
            )
        self._first = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._distance = 0.0
        self._found: int | None = None

    def words(self, step: int) -> str:
        """As those of :class:`BudgetSchedule`."""
        if self.next_event(step) is None:
            return _NONE_LEFT
        return (
            f'one cut at the end of the first epoch of {self._epoch} iterations that moves the '
            f'weights by less than {self._left:.3g} of their first norm, or after {self._last}'
        )

    def state(self) -> dict:
        """Tensors of the first weights too, until the time has come."""
        first = {name: weight.cpu() for name, weight in self._first.items()}
        return dict(first=first, distance=self._distance, found=self._found)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave."""
        self._distance, self._found = state['distance'], state['found']
        self._first = dict(state['first'])

    def next_event(self, step: int) -> int | None:
        """Iterations done at the next end of an epoch that may be the one."""
        if self._found:
            return None
        event = (step // self._epoch + 1) * self._epoch
        return event if event <= self._last else None

    def share(self, event: int) -> float:
        """Of what must go, what is to be gone after the cut."""
        return 1.0

    @torch.no_grad()
    def has_come(self, model: nn.Module, event: int) -> bool:
        """Whether it is time, at the end of an epoch; each is asked about once."""
        if self._found:
            return True
        now = dict(model.named_parameters())
        distance = _norm(now[name] - first.to(now[name]) for name, first in self._first.items())
        moved = of_rank_0(abs(distance - self._distance) / _norm(self._first.values()))
        self._distance = distance
        if 0 < moved < self._left or event == self._last:
            self._found, self._first = event, {}
        return bool(self._found)


def schedule_of(
    runner, settings: BudgetSettings, *, left: float, finetunes: bool, iters_per_step: int
) -> BudgetSchedule | EarlyCropTiming:
    """When the cuts of a run happen.

    Args:
        left: see :class:`EarlyCropTiming`.
        finetunes, iters_per_step: see :class:`.BudgetSchedule`.

    Raises:
        ValueError: there is no room for them.
    """
    if settings.timing == 'start':
        return BudgetSchedule((1,))
    if settings.timing == 'early':
        epoch = _iterations_of_an_epoch(runner.train_dataloader)
        return EarlyCropTiming(bare_model(runner), left=left, epoch=epoch, iters=runner.max_iters)
    return BudgetSchedule.of_run(
        settings, finetunes=finetunes, iters=runner.max_iters, iters_per_step=iters_per_step
    )


def shares_of_rounds(removed: float) -> list[float]:
    """Of what must go, what is to be gone after each round of one event.

    With rho > 1/2 the fraction that must go, it is (rho - (rho - 1/2) / 2^i) / rho for i = 0 .. 5,
    and then 1 (the iterative form of 2006.00896, as DemP's authors have it); else 1 at once.
    """
    if removed <= _AT_ONCE:
        return [1.0]
    beyond = removed - _AT_ONCE
    return [*((removed - beyond / 2**i) / removed for i in range(_ROUNDS + 1)), 1.0]


def check_data(loader, settings: BudgetSettings) -> None:
    """Raises TypeError for data that have no length, where score or timing need one."""
    needs = [f'score={settings.score!r}'] if settings.score in GATE_SCORES else []
    needs += [f'timing={settings.timing!r}'] if settings.timing != 'gradual' else []
    if needs and epoch_length(loader) is None:
        raise TypeError(
            f'budget {" and ".join(needs)} must have training data of a known length, and '
            f'{type(loader.dataset).__name__} has none; leave {" and ".join(needs)} out'
        )


def _iterations_of_an_epoch(loader) -> int:
    """In which the ranks together take as many samples as there are. The length of a loader is
    more where its sampler never ends, and less where it drops what fills no batch."""
    in_an_iteration = batch_size(loader) * get_world_size()
    return min(epoch_length(loader), math.ceil(len(loader.dataset) / in_an_iteration))


def _norm(tensors) -> float:
    return float(sum(t.double().square().sum() for t in tensors) ** 0.5)
