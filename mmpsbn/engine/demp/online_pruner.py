"""Prune events inside a training run: watch, select, cut, report."""

import time

from torch import Tensor, nn

from ...pruning import PrunePlan, trace_channel_graph
from ...pruning.graph import ChannelGraph
from ..checkpoints.pruned_structure import PrunedStructure
from ..openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..ranks import check_same_on_all_ranks
from ..runner_parts import averaged_models_of, bare_model, optimizers_of, unwrapped_model
from .budget import Budget
from .coverage import CalledLayers, Coverage
from .progress import Progress, what_went
from .prune_event import cut, look_at, select_keep_masks
from .settings import BudgetSettings, PruneSettings
from .window import EventWindow, silence_scores


class OnlinePruner:
    """Removes dead channels from a runner's model at the events of its settings.

    The statistics come from the training passes of the window before an event, and from
    a probe with the weights as they are at the event. Over ranks the maximum counts, so a
    channel goes only where it is dead on every rank, and goes everywhere. Averages of the model
    (EMA) lose the same channels, and are watched and verified like it.
    """

    def __init__(self, settings: PruneSettings, budget: BudgetSettings | None = None):
        self.settings = settings
        self.budget = None if budget is None else Budget(budget, settings)
        self.structure = PrunedStructure()
        self.progress = Progress()
        self.graph: ChannelGraph | None = None  # of the model as it is
        self._window = EventWindow(settings.num_samples)
        self._coverage = Coverage()
        # Parameter that writes prunable channels at the run's start -> dimension of these.
        self._channel_dims: dict[str, int] = {}
        self._probe_size: tuple[int, ...] = ()

    # --- state ------------------------------------------------------------------

    def state(self) -> dict:
        """What a resumed run must know beside the plan, plain types."""
        return dict(
            **self.progress.state(),
            channel_dims=self._channel_dims,
            **self._window.state(),
            **self._coverage.state(),
            budget=None if self.budget is None else self.budget.state(),
        )

    def restore(self, state: dict) -> None:
        for part in (self.progress, self._window, self._coverage):
            part.restore(state)
        self._channel_dims = state['channel_dims']
        if self.budget is not None and state['budget'] is not None:
            self.budget.restore(state['budget'])

    def close(self) -> None:
        """Stop watching; a later start begins anew."""
        self._window.close()
        self._coverage.close()
        self.graph = None

    # --- the first iteration --------------------------------------------------------

    def start(self, runner, data_batch: dict) -> None:
        """Trace the model on a batch.

        Raises:
            ValueError: there is no group of channels to prune, or no event in the run.
            RuntimeError: the model cannot be traced.
        """
        resumed = self.progress.has_begun
        if self._next_event(runner) is None and not resumed:
            raise ValueError(
                f'no prune event fits into {runner.max_iters} iterations with '
                f'interval={self.settings.interval}, begin={self.settings.begin} and '
                f'end={self.settings.end}; make the interval shorter'
            )
        model = bare_model(runner)
        try:
            example = example_inputs(model, data_batch, 1)
            self.graph, inputs = trace_at_any_size(model, example)
        except RuntimeError as error:
            raise RuntimeError(
                f"DemPHook needs a model that runs as model(inputs, mode='tensor'): {error}"
            ) from error
        groups = self.graph.groups
        left_whole = '; '.join(f'{n} ({r})' for n, r in self.graph.skipped.items())
        if not groups and not resumed:
            raise ValueError(
                f'{type(model).__name__} has no group of channels that can be pruned: {left_whole}'
            )
        check_same_on_all_ranks(self.graph)
        self._probe_size = tuple(inputs.shape[2:])
        called = CalledLayers(model, in_training_only=False)
        self.progress.count_on(model, runner.cfg, inputs)
        called.close()
        self._coverage.start(model, called.names, first=not resumed)
        self._window.start(data_batch)
        if self.budget is not None:
            self.budget.start(model, groups, self.progress.positions, example)
        self.progress.begin(model, groups)
        if not resumed:
            self._channel_dims = {
                f'{member.layer}.{name}'.lstrip('.'): dim
                for group in groups.values()
                for member in (*group.writers, *group.channelwise)
                for name, dim in member.slices
            }
        runner.logger.info(
            f'{sum(group.channels for group in groups.values())} channels in {len(groups)} groups '
            f'can be pruned; MACs are counted at {self.progress.counted_at}; left whole: '
            f'{left_whole or "none"}'
        )

    def parameters(self, model: nn.Module) -> dict[nn.Parameter, int]:
        """Trainable parameters that wrote the prunable channels when the run began, of
        convolutions and the normalisation behind them -> the dimension of these channels."""
        parameters = dict(model.named_parameters())
        return {
            parameters[name]: dim
            for name, dim in self._channel_dims.items()
            if name in parameters and parameters[name].requires_grad  # buffers are in it too
        }

    # --- every iteration ------------------------------------------------------------

    def _next_event(self, runner) -> int | None:
        return self.settings.next_event(runner.iter, runner.max_iters)

    @property
    def finished(self) -> bool:
        """Whether a budget is met, so that nothing more is to die or to go."""
        return self.budget is not None and self.budget.met

    @property
    def watching(self) -> bool:
        """Whether layers must call their hooks in the next training pass."""
        return self._window.is_open or self._coverage.watching

    def before_iteration(self, runner, data_batch: dict) -> None:
        """Open the window of the next event when its first sample comes, and look on."""
        event = self._next_event(runner)
        if event is None or self.finished:
            return
        if not self._window.is_open:
            if runner.iter < self._window.opens_at(event):
                return
            held = self._coverage.held
            groups = {name: g for name, g in self.graph.groups.items() if name not in held}
            if not groups:
                return
            self._window.open(runner, groups)
            self._coverage.open(bare_model(runner))
        self._window.see(runner, data_batch)

    def after_iteration(self, runner, data_batch: dict) -> None:
        """Let every rank know what all have seen, and whether it was what was traced.

        Raises:
            ValueError: see :meth:`.Coverage.check`.
        """
        self._window.join(runner)
        self._coverage.check(
            bare_model(runner), data_batch, self.graph.groups, self._window, logger=runner.logger
        )

    def is_due(self, runner) -> bool:
        """Whether the iteration that just ended is an event's."""
        return self._window.is_open and self._next_event(runner) == runner.iter + 1

    # --- an event -------------------------------------------------------------------

    def prune(self, runner, data_batch: dict) -> None:
        """Remove the channels that were dead in the window and still are."""
        start = time.perf_counter()
        windows, samples = self._window.close()
        self._coverage.close()
        if self._coverage.unknown:
            self._skip(runner, '; '.join(self._coverage.unknown))
            return
        last = self.settings.next_event(runner.iter + 1, runner.max_iters) is None
        with unwrapped_model(runner) as model:
            models = [model, *averaged_models_of(runner)]
            height, width = self._probe_size
            probe = example_inputs(model, data_batch, 2)[..., :height, :width]
            probes = look_at(models, windows[0].groups, probe)
            if probes is None:
                self._skip(runner, 'the outputs are NaN or inf before pruning')
                return
            scores = silence_scores(windows, probes, runner.logger, samples=samples)
            keep_masks, live = select_keep_masks(models, self.graph, scores, self.settings)
            groups = {name: self.graph.groups[name] for name in keep_masks}
            if self.budget is not None:
                keep_masks, forced = self.budget.limit(model, groups, keep_masks, last=last)
                live = live or forced
            removal = cut(
                models,
                groups,
                keep_masks,
                scores=scores,
                probes=probes,
                live=live,
                norm_of=self.graph.norm_of,
                batch=probe,
                optimizers=optimizers_of(runner),
                settings=self.settings,
                logger=runner.logger,
            )
            if removal.plan:
                self._follow(model, removal.plan, probe)
            if self.budget is not None:
                over = self.settings.progress(runner.iter + 1, runner.max_iters)
                self.budget.update(model, over, last=last, logger=runner.logger)
        removed_as = what_went(removal.keep_masks, scores, self.settings, samples=samples)
        seconds = time.perf_counter() - start
        self.progress.log_event(runner, bare_model(runner), removal, groups, removed_as, seconds)

    @staticmethod
    def _skip(runner, why: str) -> None:
        runner.logger.warning(f'iteration {runner.iter + 1}: {why}; this prune event is skipped')

    def _follow(self, model: nn.Module, plan: PrunePlan, probe: Tensor) -> None:
        """Note the new structure: for the checkpoint, and for the next event."""
        self.structure.extend(plan)
        self.graph = trace_channel_graph(model, probe[:1], forward_tensors)
        check_same_on_all_ranks(self.graph)
