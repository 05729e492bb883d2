"""The demon that chooses: what the loss misses least goes, until the rest is what the budget
allows."""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ...functional.schedules import steps_of
from ...pruning import VerificationError
from ...pruning.graph import by_reason
from ...pruning.prune import Removal, prune_channels
from ...pruning.reconstruction import NOT_TAKEN_OVER, InputMoments
from ...pruning.verification import output_errors, probe_outputs
from ...upstream import accumulative_counts, load_from, resumes
from ..openmmlab import forward_tensors
from ..ranks import over_ranks, reduced
from ..runner_parts import (
    averaged_models_of,
    bare_model,
    forget_best,
    groups_by_parameter,
    unwrapped_model,
    wrappers_of,
)
from ..wrapper import only_optimizer
from .budget import Budget
from .budget_schedule import (
    LEAST_STEPS,
    BudgetSchedule,
    EarlyCropTiming,
    check_data,
    schedule_of,
    shares_of_rounds,
)
from .loss_watch import LossWatch
from .online_pruner import OnlinePruner
from .prune_event import look_at
from .score_passes import train_nothing
from .scorer import ChannelScorer
from .settings import LAST_END, BudgetSettings, PruneSettings

_MOST_TRIES = 3


@dataclass(frozen=True)
class _Event:
    """What the cuts of one iteration have in common.

    Attributes:
        averages: of the model's weights, cut as it is.
        probe: pictures on which outputs are compared.
        start: of the event, in seconds of ``time.perf_counter``.
    """

    runner: Runner
    model: nn.Module
    averages: Sequence[nn.Module]
    probe: Tensor
    start: float


class BudgetPruner(OnlinePruner):
    """Removes live channels in small steps while training goes on, and leaves the rest alone.

    At a cut the channels of the least score go (:class:`.ChannelScorer`), so many that the cost
    comes down to what the :class:`.BudgetSchedule` has planned, and those that read them take over
    what they can (:class:`.InputMoments`). The outputs must then be those of a model whose readers
    see 0 of them; if they are not, all is put back, and others are chosen.
    """

    def __init__(self, budget: BudgetSettings, settings: PruneSettings, *, free_widths: bool):
        super().__init__(hold_what_is_not_read=True)
        self.settings = settings
        self.budget = Budget(budget, settings, free_widths=free_widths)
        self._budget_settings = budget
        self._schedule: BudgetSchedule | EarlyCropTiming | None = None
        self._saved_schedule: Mapping = {}  # of a resumed run, until there is a schedule
        self._optimizer: Optimizer | None = None
        self._owned: Container[nn.Parameter] = ()  # by the optimizer
        self._iters_per_step = 1
        self._scorer = ChannelScorer(budget.score)
        self._moments = InputMoments(nn.Module(), {})  # of an event's iteration
        self._refused: set[str] = set()  # groups whose removal was undone; they stay whole
        self._another_try: int | None = None  # iterations done at it, after the schedule's last
        self._finetunes: bool | None = None
        self._reach_is_checked = False
        self._losses = LossWatch(LEAST_STEPS)
        self._step_hook: RemovableHandle | None = None

    @property
    def kind(self) -> str:
        """What the budget is counted in."""
        return self._budget_settings.kind

    def state(self) -> dict:
        return dict(
            **super().state(),
            budget=self.budget.state(),
            saliency=self._scorer.state(),
            refused=sorted(self._refused),
            another_try=self._another_try,
            finetunes=self._finetunes,
            losses=self._losses.state(),
            schedule=self._saved_schedule if self._schedule is None else self._schedule.state(),
        )

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.budget.restore(state['budget'])
        self._scorer.restore(state['saliency'])
        self._refused = set(state['refused'])
        self._another_try, self._finetunes = state['another_try'], state['finetunes']
        self._losses.restore(state['losses'])
        self._saved_schedule = state['schedule']

    def end(self, runner) -> None:
        self._losses.end(runner.logger)
        if self.graph is not None and not self.budget.met:
            event = self.next_event(runner)
            early = f'; the run has ended before the cut at iteration {event}' if event else ''
            self._log_budget(runner, share=1.0, why=early)
        if self._step_hook is not None:
            self._step_hook.remove()
        self._moments.close()
        self._step_hook = None
        self._scorer.close()
        super().end(runner)

    def start(self, runner, data_batch: dict) -> Tensor:
        """As :meth:`.OnlinePruner.start`.

        Raises:
            ValueError: besides, the budget cannot be met, or the run is too short.
            TypeError: the run has several optimizers, or data without a length where one is needed.
            RuntimeError: besides, the score cannot be computed.
        """
        self._optimizer = only_optimizer(runner, hook='DemPHook')
        self._owned = groups_by_parameter([self._optimizer])
        self._iters_per_step = accumulative_counts(wrappers_of(runner)[0])
        if self._finetunes is None:
            self._finetunes = load_from(runner) is not None and not resumes(runner)
        check_data(runner.train_dataloader, self._budget_settings)
        example = super().start(runner, data_batch)
        model = bare_model(runner)
        image = example.new_zeros(1, example.shape[1], *self.progress.counted_size)
        groups = self._scorer.known(model, self.graph, self.prunable)
        whole = self._whole(groups)
        least = self.budget.start(model, groups, self.progress.positions, image, whole)
        self._schedule = schedule_of(
            runner,
            self._budget_settings,
            left=self.budget.target,
            finetunes=self._finetunes,
            iters_per_step=self._iters_per_step,
        )
        if self._saved_schedule:
            self._schedule.restore(self._saved_schedule)
        if len(groups) < len(self.prunable):
            runner.logger.warning(f'of some channels no gradient tells: left whole: {whole}')
        runner.logger.info(
            f'{self.budget}: {self._schedule.words(runner.iter)}, widths in {self.budget.widths}; '
            f'the least that can be left is {least:.1%}'
        )
        if self.next_event(runner) is None and not self.budget.met:
            self._log_budget(runner, share=1.0)
        else:
            self._scorer.try_once(runner, model, self.graph, groups)
        hidden = torch.compiler.disable if runner.cfg.get('compile') else lambda hook: hook
        self._step_hook = self._optimizer.register_step_pre_hook(hidden(self._before_step))
        return example

    def _whole(self, groups: Container[str]) -> str:
        """What else there is, and why it stays."""
        reasons = dict(self.graph.skipped)
        for name, group in self.graph.groups.items():
            if group.channels == 1:
                reasons[name] = 'its channels can only go all together'
            elif name in self._coverage.held:
                reasons[name] = 'the losses hold it, or what reads it does not train'
            elif name in self._refused:
                reasons[name] = 'its removal was undone'
            elif name not in groups:
                reasons[name] = 'frozen, or in a layer norm without a scale that trains'
        return by_reason(reasons)

    def next_event(self, runner) -> int | None:
        event = self._schedule.next_event(runner.iter)
        if event is None and self._another_try is not None and self._another_try > runner.iter:
            return self._another_try
        return event

    @property
    def is_open(self) -> bool:
        return self._scorer.is_open

    def before_iteration(self, runner, data_batch: dict) -> None:
        event = self.next_event(runner)
        if event is None or not self.prunable:
            return
        model = bare_model(runner)
        self._scorer.open(model, self.graph, self.prunable)
        # a layer that begins to run late is one that runs in the last steps before a cut
        if self._is_near(runner, event):
            self._coverage.open(model)
        if event == runner.iter + 1:  # what was read earlier is of weights that are gone
            watched = self.prunable if self._budget_settings.reconstructs else {}
            self._moments = InputMoments(model, watched)
        if self._budget_settings.timing == 'start' and not runner.iter:
            train_nothing(model, data_batch)
            super().after_iteration(runner, data_batch, None)
            self.prune(runner, data_batch)

    def _is_near(self, runner, event: int) -> bool:
        return runner.iter >= event - LEAST_STEPS * self._iters_per_step

    def _before_step(self, *_) -> None:
        self._scorer.add(shifted=self._owned)

    def after_iteration(self, runner, data_batch: dict, outputs: dict | None) -> None:
        super().after_iteration(runner, data_batch, outputs)
        if (runner.iter + 1) % self._iters_per_step == 0:
            self._scorer.forget()
        self._losses.note(outputs, runner.logger)
        event = self.next_event(runner)
        if event is not None and not self._is_near(runner, event):
            self._coverage.close()
        if not self._reach_is_checked:  # now it is known what the losses hold
            self._reach_is_checked = True
            if event is not None:
                model = bare_model(runner)
                groups = self._scorer.known(model, self.graph, self.prunable)
                self.budget.check_reach(model, groups, self._whole(groups))

    def prune(self, runner, data_batch: dict) -> None:
        """Cut down to what is planned."""
        iteration = runner.iter + 1
        if not self._schedule.has_come(bare_model(runner), iteration):
            return
        start = time.perf_counter()
        self._coverage.close()
        self._moments.close()
        self._moments.join(reduced)
        share = 1.0 if iteration == self._another_try else self._schedule.share(iteration)
        self._another_try = None
        with unwrapped_model(runner, who='DemPHook') as model:
            averages = averaged_models_of(runner)
            probe = self._probe_of(model, data_batch)
            scores = self._scores(runner, model)
            seen = look_at([model, *averages], {}, probe)
            why = self._obstacle(scores, model, finite=seen is not None)
            if why:
                self._skip(runner, why)
            else:
                event = _Event(runner, model, averages, probe, start)
                went = self._cut_down(event, scores, share, seen[1])
                if went:
                    self._losses.cut(iteration)
                    forget_best(runner)
        self._log_budget(runner, share)
        if share == 1 and not self.budget.met and (why or went):
            another = iteration + LEAST_STEPS * self._iters_per_step
            if another <= steps_of(LAST_END, runner.max_iters):
                self._another_try = another
                runner.logger.info(f'another try comes at iteration {another}')

    def _cut_down(self, event: _Event, scores: Mapping, share: float, before: list) -> bool:
        """Cut until a share of what must go has gone: at once, but for scores that take passes of
        their own; and again where a clock is not met by what the counts promised.

        Args:
            before: the outputs on the probe.

        Returns:
            Whether anything went.
        """
        went = False
        shares = [share] * _MOST_TRIES
        if self._scorer.takes_passes and self._budget_settings.timing != 'gradual':
            shares = shares_of_rounds(1 - self.budget.target) + shares[1:]
        for draw, aim in enumerate(shares, 1):
            removal = self._cut(event, scores, aim)
            self._moments = InputMoments(event.model, {})  # what is read after a cut is not known
            if not removal.plan:
                if aim == share:
                    break
                continue
            went = True
            after = probe_outputs(event.model, event.probe, forward_tensors)
            (_, change), before = output_errors(before, after), after
            self._follow(event.model, removal.plan, event.probe)
            self.budget.count(event.model, clock=aim == 1)
            self.progress.log_event(
                event.runner,
                event.model,
                removal,
                removed_as=self._scorer.words(removal, scores),
                change=change,
                reconstructed=self._budget_settings.reconstructs,
                seconds=time.perf_counter() - event.start,
            )
            if share < 1 or (aim == 1 and self.budget.met):
                break
            scores = (
                self._scores(event.runner, event.model, draw)
                if self._scorer.takes_passes
                else self._of_those_left(scores, removal)
            )
        return went

    def _of_those_left(self, scores: Mapping[str, Tensor], removal: Removal) -> dict[str, Tensor]:
        """A group that is down to one channel is none any more."""
        left = {
            name: score[removal.keep_masks[name]] if name in removal.keep_masks else score
            for name, score in scores.items()
        }
        return {name: score for name, score in left.items() if name in self.prunable}

    def _obstacle(self, scores: Mapping, model: nn.Module, *, finite: bool) -> str | None:
        """Why there can be no cut now.

        Args:
            finite: whether the outputs are.
        """
        if self._coverage.unknown:
            return '; '.join(self._coverage.unknown)
        if not scores:
            return 'of no channel a gradient has told anything since the last cut'
        if not finite:
            return 'the outputs are NaN or inf before pruning'
        return self._out_of_reach(model, scores)

    def _out_of_reach(self, model: nn.Module, names: Container[str]) -> str | None:
        """Why the budget cannot be met by these groups, but for those that are refused."""
        groups = {
            name: group
            for name, group in self.graph.groups.items()
            if name in names and name not in self._refused
        }
        try:
            self.budget.check_reach(model, groups, self._whole(groups))
        except ValueError as error:
            return str(error)
        return None

    def _scores(self, runner, model: nn.Module, draw: int = 0) -> dict[str, Tensor]:
        scores = self._scorer.scores(runner, model, self.graph, self.prunable, draw)
        return {name: score for name, score in scores.items() if name not in self._refused}

    def _cut(self, event: _Event, scores: Mapping, share: float) -> Removal:
        """Choose and cut; a group whose removal is wrong stays whole, and others go for it."""
        model, logger = event.model, event.runner.logger
        how = dict(
            batch=event.probe,
            forward_fn=forward_tensors,
            tolerance=self.settings.tolerance,
            optimizers=[self._optimizer],
            averages=event.averages,
            live=True,
            agree=over_ranks,
        )
        while True:
            chosen = {name: s for name, s in scores.items() if name not in self._refused}
            groups = {name: self.graph.groups[name] for name in chosen}
            keep_masks = self.budget.choose(model, groups, self._scorer.ranked(chosen), share)
            try:
                with self._moments.reconstructed([model, *event.averages], keep_masks) as unchanged:
                    removal = prune_channels(model, groups, keep_masks, **how)
                if unchanged:
                    logger.warning(NOT_TAKEN_OVER.format(', '.join(unchanged)))
                return removal
            except VerificationError as error:
                if self.settings.on_failure == 'stop':
                    raise
                if not error.groups:
                    logger.error(f'{error}; nothing is removed at this event')
                    return Removal.of_nothing()
                logger.error(f'{error}; they stay whole')
                self._refused.update(error.groups)
                if why := self._out_of_reach(model, chosen):
                    logger.error(f'{why}; nothing is removed at this event')
                    return Removal.of_nothing()

    def _log_budget(self, runner, share: float, why: str = '') -> None:
        budget, text = self.budget, self.budget.words(share)
        if share < 1:
            runner.logger.info(f'{budget}: {text} by now, {budget.planned(1):.1%} in the end')
        elif budget.met:
            runner.logger.info(f'{budget} is met: {text}; no more channels go')
        else:
            runner.logger.warning(f'{budget} is missed: {text}{why}')
