"""Prune events inside a training run: what is the same whoever chooses the channels."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...pruning import PrunePlan, trace_channel_graph
from ...pruning.graph import ChannelGraph, ChannelGroup
from ..checkpoints.pruned_structure import PrunedStructure
from ..openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..ranks import check_same_on_all_ranks
from ..runner_parts import bare_model
from .progress import Progress
from .trace_coverage import CalledLayers, TraceCoverage


class OnlinePruner(ABC):
    """Removes channels from a runner's model at the events of its settings.

    Which channels and when is for :class:`.DeadChannelPruner` and :class:`.BudgetPruner`, which
    watch the training passes before an event. Averages of the model (EMA) lose the same channels
    and are verified like it.
    """

    def __init__(self, *, hold_what_is_not_read: bool):
        self.structure = PrunedStructure()
        self.progress = Progress()
        self.graph: ChannelGraph | None = None  # of the model as it is
        self._coverage = TraceCoverage(hold_what_is_not_read=hold_what_is_not_read)
        self._probe_size: tuple[int, ...] = ()

    # --- what the choice is for -------------------------------------------------------

    @abstractmethod
    def before_iteration(self, runner, data_batch: dict) -> None:
        """Watch, where the iteration belongs to the window of an event."""

    @abstractmethod
    def next_event(self, runner) -> int | None:
        """Iterations done at the first event after those that are done now; None if there is
        none."""

    @abstractmethod
    def prune(self, runner, data_batch: dict) -> None:
        """An event: choose, cut and report."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the window of an event is open."""

    # --- state ------------------------------------------------------------------------

    def state(self) -> dict:
        """What a resumed run must know beside the plan, plain types."""
        return dict(**self.progress.state(), **self._coverage.state())

    def restore(self, state: dict) -> None:
        self.progress.restore(state)
        self._coverage.restore(state)

    def end(self, runner) -> None:
        """The training has ended: stop watching; a later start begins anew."""
        self._coverage.close()
        self.graph = None

    # --- the first iteration ------------------------------------------------------------

    def start(self, runner, data_batch: dict) -> Tensor:
        """Trace the model on a batch; returns the first image of it.

        Raises:
            ValueError: there is no group of channels to prune.
            RuntimeError: the model cannot be traced.
        """
        model = bare_model(runner)
        try:
            example = example_inputs(model, data_batch, 1)
            self.graph, inputs = trace_at_any_size(model, example)
        except RuntimeError as error:
            raise RuntimeError(
                f"DemPHook needs a model that runs as model(inputs, mode='tensor'): {error}"
            ) from error
        groups, resumed = self.graph.groups, self.progress.has_begun
        if not groups and not resumed:
            raise ValueError(
                f'{type(model).__name__} has no group of channels that can be pruned: '
                f'{self.graph.left_whole}'
            )
        check_same_on_all_ranks(self.graph)
        self._probe_size = tuple(inputs.shape[2:])
        called = CalledLayers(model, in_training_only=False)
        self.progress.count_on(model, runner.cfg, inputs)
        called.close()
        self._coverage.start(model, called.names, first=not resumed)
        self.progress.begin(model, groups)
        runner.logger.info(
            f'{sum(group.channels for group in groups.values())} channels in {len(groups)} groups '
            f'can be pruned; MACs are counted at {self.progress.counted_at}; left whole: '
            f'{self.graph.left_whole or "none"}'
        )
        return example

    # --- every iteration ----------------------------------------------------------------

    @property
    def watching(self) -> bool:
        """Whether layers must call their hooks in the next training pass."""
        return self._coverage.watching

    @property
    def prunable(self) -> dict[str, ChannelGroup]:
        """The groups that the losses do not hold."""
        held = self._coverage.held
        return {name: group for name, group in self.graph.groups.items() if name not in held}

    def after_iteration(self, runner, data_batch: dict, outputs: dict | None) -> None:
        """Is what ran what was traced?

        Args:
            outputs: of the training step.

        Raises:
            ValueError: see :meth:`.TraceCoverage.check`.
        """
        self._coverage.check(
            bare_model(runner),
            data_batch,
            self.graph.groups,
            in_window=self.is_open,
            logger=runner.logger,
        )

    def is_due(self, runner) -> bool:
        """Whether the iteration that just ended is an event's."""
        return self.is_open and self.next_event(runner) == runner.iter + 1

    # --- an event -----------------------------------------------------------------------

    def _skip(self, runner, why: str) -> None:
        runner.logger.warning(f'iteration {runner.iter + 1}: {why}; this prune event is skipped')

    def _probe_of(self, model: nn.Module, data_batch: dict) -> Tensor:
        height, width = self._probe_size
        return example_inputs(model, data_batch, 2)[..., :height, :width]

    def _follow(self, model: nn.Module, plan: PrunePlan, probe: Tensor) -> None:
        """Note the new structure: for the checkpoint, and for the next event."""
        self.structure.extend(plan)
        self.graph = trace_channel_graph(model, probe[:1], forward_tensors)
        check_same_on_all_ranks(self.graph)
