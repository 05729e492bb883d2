"""Prune events inside a training run: watch, select, cut, report."""

import time

import torch
from mmengine.dist import broadcast_object_list
from torch import Tensor, nn

from ...pruning import trace_channel_graph
from ...pruning.activation import ActivationWindow
from ...pruning.cost import Cost, model_cost
from ...pruning.forward import observing
from ...pruning.graph import ChannelGraph
from ...pruning.prune import Removal, Subject
from ...pruning.verification import probe_outputs
from ..checkpoints.pruned_structure import PrunedStructure
from ..input_size import count_at_one_size
from ..openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..ranks import check_same_on_all_ranks, joined_scores, over_ranks, reduced
from ..runner_parts import averaged_models_of, bare_model, optimizers_of, unwrapped_model
from .budget import Budget
from .coverage import CalledLayers, Coverage
from .prune_event import cut, select_keep_masks
from .settings import BudgetSettings, PruneSettings


class OnlinePruner:
    """Removes dead channels from a runner's model at the events of its settings.

    The statistics come from the training passes of the window before an event, and from
    a probe with the weights as they are at the event. Over ranks the maximum counts, so a
    channel goes only where it is dead on every rank, and goes everywhere.

    What is validated and saved may be an average of the model (EMA), in which other channels are
    alive. So within a window each average sees the training batches too, in eval mode, and at
    the event the probe, and its outputs are verified like the model's: a forward pass without
    gradients for each average and batch of a window. Over ranks an iteration in a window also has
    three all-reduces, of two numbers a channel and one a reader and a layer, since a checkpoint is
    written by one rank and must hold what all have seen.
    """

    def __init__(self, settings: PruneSettings, budget: BudgetSettings | None = None):
        self.settings = settings
        self.budget = None if budget is None else Budget(budget, settings)
        self.structure = PrunedStructure()
        self.graph: ChannelGraph | None = None
        # Fractions of the prunable channels and MACs at the run's start that are left.
        self.left: dict[str, float] = {}
        self._dense: dict[str, int] = {}
        self._removed = 0  # channels, in all events
        # Parameter that writes prunable channels at the run's start -> dimension of these.
        self._channel_dims: dict[str, int] = {}
        self._positions: dict[str, float] = {}
        self._counted_size: tuple[int, ...] = ()  # of the image that MACs are of
        self._probe_size: tuple[int, ...] = ()
        self._example: Tensor | None = None  # what a latency is measured on
        self._coverage = Coverage()
        # Over all ranks in the first iteration: they must open a window together.
        self._batch_size = 0
        self._windows: list[ActivationWindow] = []  # of the model and of its averages
        self._saved_windows: list[dict] = []
        self._samples = 0

    # --- state ------------------------------------------------------------------

    def state(self) -> dict:
        """What a resumed run must know beside the plan, plain types."""
        return dict(
            dense=self._dense,
            removed=self._removed,
            channel_dims=self._channel_dims,
            positions=self._positions,
            counted_size=list(self._counted_size),
            windows=[window.state() for window in self._windows] or self._saved_windows,
            samples=self._samples,
            **self._coverage.state(),
            budget=None if self.budget is None else self.budget.state(),
        )

    def restore(self, state: dict) -> None:
        self._dense, self._positions = state['dense'], state['positions']
        self._counted_size = tuple(state['counted_size'])
        self._removed, self._channel_dims = state['removed'], state['channel_dims']
        self._saved_windows, self._samples = state['windows'], state['samples']
        self._coverage.restore(state)
        if self.budget is not None and state['budget'] is not None:
            self.budget.restore(state['budget'])

    def close(self) -> None:
        """Stop watching; a later start begins anew."""
        for watcher in (*self._windows, self._coverage):
            watcher.close()
        self._windows, self.graph = [], None

    # --- the first iteration --------------------------------------------------------

    def start(self, runner, data_batch: dict) -> None:
        """Trace the model on a batch.

        Raises:
            ValueError: there is no group of channels to prune, or no event in the run.
            RuntimeError: the model cannot be traced.
        """
        if self.settings.next_event(runner.iter, runner.max_iters) is None and not self._dense:
            raise ValueError(
                f'no prune event fits into {runner.max_iters} iterations with '
                f'interval={self.settings.interval}, begin={self.settings.begin} and '
                f'end={self.settings.end}; make the interval shorter'
            )
        model = bare_model(runner)
        try:
            self.graph, inputs = trace_at_any_size(model, example_inputs(model, data_batch, 1))
        except RuntimeError as error:
            raise RuntimeError(
                f"DemPHook needs a model that runs as model(inputs, mode='tensor'): {error}"
            ) from error
        left_whole = '; '.join(f'{n} ({r})' for n, r in self.graph.skipped.items())
        if not self.graph.groups and not self._dense:
            raise ValueError(
                f'{type(model).__name__} has no group of channels that can be pruned: {left_whole}'
            )
        check_same_on_all_ranks(self.graph)
        called = CalledLayers(model, in_training_only=False)
        counted = [count_at_one_size(model, runner.cfg, inputs)]
        called.close()
        broadcast_object_list(counted)  # images of another size cost another rank more
        if not self._positions:  # a resumed run goes on counting on the images it began with
            self._positions, self._counted_size = counted[0]
        self._batch_size = int(reduced(torch.tensor(len(data_batch['inputs'])), 'sum'))
        self._coverage.start(model, called.names, first=not self._dense)
        self._probe_size = tuple(inputs.shape[2:])
        if self.budget is not None:
            self._example = example_inputs(model, data_batch, 1)
            self.budget.start(model, self.graph.groups, self._positions, self._example)
        cost = model_cost(model, self._positions)
        channels = sum(group.channels for group in self.graph.groups.values())
        if not self._dense:
            self._dense = dict(channels=channels, macs=cost.macs)
            self._channel_dims = {
                f'{member.layer}.{name}'.lstrip('.'): dim
                for group in self.graph.groups.values()
                for member in (*group.writers, *group.norms)
                for name, dim in member.slices
            }
        self._update_left(cost)
        runner.logger.info(
            f'{channels} channels in {len(self.graph.groups)} groups can be '
            f'pruned; MACs are counted at {self._counted_on}; left whole: {left_whole or "none"}'
        )

    def check_coverage(self, runner, data_batch: dict) -> None:
        """After an iteration: was what ran in it what was traced?

        Raises:
            ValueError: see :meth:`.Coverage.check`.
        """
        groups = self.graph.groups
        self._coverage.check(
            bare_model(runner), data_batch, groups, self._windows, logger=runner.logger
        )

    @property
    def _counted_on(self) -> str:
        return 'x'.join(map(str, self._counted_size))

    def _update_left(self, cost: Cost) -> None:
        self.left = dict(
            channels=1 - self._removed / self._dense['channels'],
            macs=cost.macs / self._dense['macs'],
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

    # --- events -------------------------------------------------------------------

    def watch(self, runner, data_batch: dict) -> None:
        """Open the window of the next event when its first sample comes."""
        event = self.settings.next_event(runner.iter, runner.max_iters)
        if event is None or self.finished:
            return
        if not self._windows:
            iterations = -(-self.settings.num_samples // self._batch_size)
            prunable = self.graph.groups.keys() - self._coverage.held
            if runner.iter < event - iterations or not prunable:
                return
            self._open_windows(runner)
        self._samples += len(data_batch['inputs']) * runner.world_size
        for average in averaged_models_of(runner):
            inputs = example_inputs(average, data_batch, None)
            with observing(average):
                forward_tensors(average, inputs)

    def _open_windows(self, runner) -> None:
        averages = averaged_models_of(runner)
        groups = {n: g for n, g in self.graph.groups.items() if n not in self._coverage.held}
        self._windows = [
            ActivationWindow(model, groups, in_training_only=model not in averages)
            for model in (bare_model(runner), *averages)
        ]
        self._coverage.open(bare_model(runner))
        for window, saved in zip(self._windows, self._saved_windows):
            window.restore(saved)
        self._saved_windows = []

    def join_windows(self, runner) -> None:
        """At the end of an iteration: every rank knows what all have seen."""
        if runner.world_size > 1:
            for window in self._windows:
                window.join(reduced)

    @property
    def finished(self) -> bool:
        """Whether a budget is met, so that nothing more is to die or to go."""
        return self.budget is not None and self.budget.met

    @property
    def watching(self) -> bool:
        """Whether layers must call their hooks in the next training pass."""
        return bool(self._windows) or self._coverage.watching

    def is_due(self, runner) -> bool:
        """Whether the iteration that just ended is an event's."""
        event = self.settings.next_event(runner.iter, runner.max_iters)
        return bool(self._windows) and event == runner.iter + 1

    def prune(self, runner, data_batch: dict) -> None:
        """Remove the channels that were dead in the window and still are."""
        start = time.perf_counter()
        windows, self._windows = self._windows, []
        samples, self._samples = self._samples, 0
        for watcher in (*windows, self._coverage):
            watcher.close()
        if self._coverage.unknown:
            runner.logger.warning(
                f'iteration {runner.iter + 1}: {"; ".join(self._coverage.unknown)}; this prune '
                'event is skipped'
            )
            return
        before = model_cost(bare_model(runner), self._positions)
        with unwrapped_model(runner) as model:
            height, width = self._probe_size
            probe = example_inputs(model, data_batch, 2)[..., :height, :width]
            averages = averaged_models_of(runner)
            models = [model, *averages]
            outputs, probes = self._probe(models, windows[0], probe)
            if over_ranks(float(not all(x.isfinite().all() for x in outputs))):
                runner.logger.warning(
                    f'iteration {runner.iter + 1}: the outputs are NaN or inf before pruning; '
                    'this prune event is skipped'
                )
                return
            # A layer must have seen some samples before what it reads can be called dead: fewer
            # than all, for the branches of a net share these; more than one, on which half of
            # all ReLUs may be off.
            least_samples = -(-int(over_ranks(samples)) // 10)
            scores = joined_scores(windows, runner.logger, least_samples=least_samples)
            for name, score in joined_scores(probes, runner.logger).items():
                scores[name] = torch.maximum(scores[name], score)
            keep_masks, live = select_keep_masks(models, self.graph, scores, self.settings)
            groups = {name: self.graph.groups[name] for name in keep_masks}
            last = self.settings.next_event(runner.iter + 1, runner.max_iters) is None
            if self.budget is not None:
                keep_masks, forced = self.budget.limit(model, groups, keep_masks, last=last)
                live = live or forced
            constants = [None] * len(models)
            if self.settings.criterion == 'collapsed' and not live:
                constants = [seen.values() for seen in probes]
            result = cut(
                model,
                groups,
                keep_masks,
                scores=scores,
                settings=self.settings,
                logger=runner.logger,
                batch=probe,
                optimizers=optimizers_of(runner),
                constants=constants[0],
                averages=[Subject(*pair) for pair in zip(averages, constants[1:])],
                norm_of=self.graph.norm_of,
                live=live,
            )
            if result.plan:
                self.structure.extend(result.plan)
                self.graph = trace_channel_graph(model, probe[:1], forward_tensors)
                check_same_on_all_ranks(self.graph)
            if self.budget is not None:
                self.budget.update(
                    model,
                    self._example,
                    self.settings.progress(runner.iter + 1, runner.max_iters),
                    last=last,
                    logger=runner.logger,
                )
        self._removed += sum(result.channels_removed.values())
        # of the groups of before: what has one channel left is no group any more
        widths = {n: groups[n].channels - gone for n, gone in result.channels_removed.items()}
        removed_as = self._removed_as(result.keep_masks, scores, samples)
        self._report(runner, before, result, widths, removed_as, time.perf_counter() - start)

    @staticmethod
    def _probe(models: list[nn.Module], window: ActivationWindow, probe: Tensor):
        """The outputs of all models, and what the readers see in each."""
        windows, outputs = [], []
        for model in models:
            now = ActivationWindow(model, window.groups, in_training_only=False)
            try:
                outputs += probe_outputs(model, probe, forward_tensors)
            finally:
                now.close()
            windows.append(now)
        return outputs, windows

    def _removed_as(
        self, keep_masks: dict[str, Tensor], scores: dict[str, Tensor], samples: int
    ) -> str:
        """How many of the channels that went were dead, and what the others were."""
        dead = others = 0
        for name, keep_mask in keep_masks.items():
            silent = scores[name][~keep_mask] <= self.settings.eps
            dead += int(silent.sum())
            others += int((~silent).sum())
        text = f'{dead or "none"} dead on {samples} samples'
        if not others:
            return text
        if self.settings.criterion == 'collapsed':
            return f'{text}, {others} collapsed (|gamma| < {self.settings.gamma_threshold:g})'
        return f'{text}, {others} live'

    def _report(
        self,
        runner,
        before: Cost,
        result: Removal,
        widths: dict[str, int],
        removed_as: str,
        seconds: float,
    ) -> None:
        removed = sum(result.channels_removed.values())
        after = model_cost(bare_model(runner), self._positions)
        self._update_left(after)
        lines = [
            f'prune event at iteration {runner.iter + 1}: {removed} channels removed '
            f'({removed_as}), {self.left["channels"]:.1%} left; '
            f'params {before.params:,} -> {after.params:,}; '
            f'MACs at {self._counted_on} {before.macs / 1e6:,.1f} M -> {after.macs / 1e6:,.1f} M '
            f'({self.left["macs"]:.1%} left); outputs within {result.relative_error:.1e}; '
            f'{seconds:.2f} s'
        ]
        lines += [
            f'  {name}: -{n}, {widths[name]} left' for name, n in result.channels_removed.items()
        ]
        runner.logger.info('\n'.join(lines))
        runner.visualizer.add_scalar('demp/channels_removed', removed, runner.iter + 1)
