"""Prune events inside a training run: watch, select, cut, report."""

import math
import time

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from torch import Tensor, nn

from ..pruning import (
    ActivationWindow,
    ChannelGraph,
    Cost,
    Removal,
    apply_plan,
    count_positions,
    fold_constants,
    model_cost,
    rank_channels,
    trace_channel_graph,
)
from ..pruning.verification import probe_outputs
from .budget import Budget
from .coverage import CalledLayers
from .models import (
    averaged_models_of,
    bare_model,
    example_inputs,
    forward_tensors,
    optimizers_of,
    trace_at_any_size,
    unwrapped_model,
)
from .prune_event import (
    check_same_on_all_ranks,
    cut,
    joined_constants,
    joined_scores,
    over_ranks,
    select_keep_masks,
)
from .pruned_structure import PrunedStructure
from .settings import BudgetSettings, PruneSettings


class OnlinePruner:
    """Removes dead channels from a runner's model at the events of its settings.

    The statistics come from the training passes of the window before an event, and from
    a probe with the weights as they are at the event, of the model and of its averages.
    Over ranks the maximum counts, so a channel goes only where it is dead on every rank,
    and goes everywhere.
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
        self._layers: list[str] = []  # that write prunable channels at the run's start
        self._positions: dict[str, float] = {}
        self._probe_size: tuple[int, ...] = ()
        self._example: Tensor | None = None  # what a latency is measured on
        self._excluded: set[str] = set()
        self._traced_layers: set[str] = set()
        self._called: CalledLayers | None = None
        self._window: ActivationWindow | None = None
        self._saved_window: dict[str, list] = {}
        self._samples = 0

    # --- state ------------------------------------------------------------------

    def state(self) -> dict:
        """What a resumed run must know beside the plan, plain types."""
        return dict(
            dense=self._dense,
            removed=self._removed,
            layers=self._layers,
            positions=self._positions,
            excluded=sorted(self._excluded),
            window=self._window.state() if self._window else self._saved_window,
            samples=self._samples,
            budget=None if self.budget is None else self.budget.state(),
        )

    def restore(self, state: dict) -> None:
        self._dense, self._positions = state['dense'], state['positions']
        self._removed, self._layers = state['removed'], state['layers']
        self._excluded = set(state['excluded'])
        self._saved_window = state['window']
        self._samples = state['samples']
        if self.budget is not None and state['budget'] is not None:
            self.budget.restore(state['budget'])

    def close(self) -> None:
        """Stop watching; a later start begins anew."""
        for watcher in (self._window, self._called):
            if watcher is not None:
                watcher.close()
        self._window = self._called = self.graph = None

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
        if self.settings.allow_live and not self._dense:  # needs scales to rank by; say so now
            rank_channels(model, self.graph.groups, criterion='bn_scale', seed=0)
        called = CalledLayers(model)
        positions = [count_positions(model, inputs, forward_tensors)]
        called.close()
        broadcast_object_list(positions)  # images of another size cost another rank more
        if not self._positions:  # a resumed run goes on counting on the images it began with
            self._positions = positions[0]
        self._traced_layers = called.names
        self._called = CalledLayers(model)
        self._probe_size = tuple(inputs.shape[2:])
        if self.budget is not None:
            self._example = example_inputs(model, data_batch, 1)
            self.budget.start(model, self.graph.groups, self._positions, self._example)
        cost = model_cost(model, self._positions)
        channels = sum(group.channels for group in self.graph.groups.values())
        if not self._dense:
            self._dense = dict(channels=channels, macs=cost.macs)
            members = (m for g in self.graph.groups.values() for m in (*g.writers, *g.norms))
            self._layers = list(dict.fromkeys(member.layer for member in members))
        self._update_left(cost)
        runner.logger.info(
            f'{channels} channels in {len(self.graph.groups)} groups can be '
            f'pruned; left whole: {left_whole or "none"}'
        )

    def check_coverage(self, runner) -> None:
        """After the first training iteration: was what ran there what was traced?

        Raises:
            ValueError: a layer runs in training only, so what it reads is unknown.
        """
        if self._called is None:
            return
        self._called.close()
        called, self._called = self._called.names, None
        names = [name for name, _ in bare_model(runner).named_modules()]
        ran = torch.tensor([name in called for name in names], dtype=torch.int32)
        all_reduce(ran, op='max')
        called = {name for name, flag in zip(names, ran.tolist()) if flag}
        untraced = sorted(called - self._traced_layers)
        if untraced:
            raise ValueError(
                f"{', '.join(untraced)} run in training but not in model(inputs, mode='tensor'): "
                'which channels they read is unknown, so nothing can be pruned safely'
            )
        for name, group in self.graph.groups.items():
            silent = sorted({m.layer for m in group.readers} - called)
            if silent:
                self._excluded.add(name)
                runner.logger.warning(
                    f'{name} is left whole: {", ".join(silent)} reads it and does not run in '
                    'training'
                )

    def _update_left(self, cost: Cost) -> None:
        self.left = dict(
            channels=1 - self._removed / self._dense['channels'],
            macs=cost.macs / self._dense['macs'],
        )

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Trainable parameters that wrote the prunable channels when the run began: convolutions
        and the normalisation behind them."""
        return [
            p
            for name in self._layers
            for p in model.get_submodule(name).parameters(recurse=False)
            if p.requires_grad
        ]

    # --- events -------------------------------------------------------------------

    def watch(self, runner, data_batch: dict) -> None:
        """Open the window of the next event when its first sample comes."""
        event = self.settings.next_event(runner.iter, runner.max_iters)
        if event is None or self.finished:
            return
        samples = len(data_batch['inputs']) * runner.world_size
        if self._window is None:
            if runner.iter < event - math.ceil(self.settings.num_samples / samples):
                return
            model = bare_model(runner)
            groups = {n: g for n, g in self.graph.groups.items() if n not in self._excluded}
            if not groups:
                return
            self._window = ActivationWindow(model, groups, in_training_only=True)
            self._window.restore(self._saved_window, next(model.parameters()).device)
            self._saved_window = {}
        self._samples += samples

    @property
    def finished(self) -> bool:
        """Whether a budget is met, so that nothing more is to die or to go."""
        return self.budget is not None and self.budget.met

    @property
    def watching(self) -> bool:
        """Whether layers must call their hooks in the next training pass."""
        return self._window is not None or self._called is not None

    def is_due(self, runner) -> bool:
        """Whether the iteration that just ended is an event's."""
        event = self.settings.next_event(runner.iter, runner.max_iters)
        return self._window is not None and event == runner.iter + 1

    def prune(self, runner, data_batch: dict) -> None:
        """Remove the channels that were dead in the window and still are."""
        start = time.perf_counter()
        window, self._window = self._window, None
        samples, self._samples = self._samples, 0
        window.close()
        before = model_cost(bare_model(runner), self._positions)
        with unwrapped_model(runner) as model:
            height, width = self._probe_size
            probe = example_inputs(model, data_batch, 2)[..., :height, :width]
            averages = averaged_models_of(runner)
            outputs, windows = self._probe([model, *averages], window, probe)
            if over_ranks(float(not all(x.isfinite().all() for x in outputs))):
                runner.logger.warning(
                    f'iteration {runner.iter + 1}: the outputs are NaN or inf before pruning; '
                    'this prune event is skipped'
                )
                return
            models = [model, *averages]
            keep_masks, live = select_keep_masks(
                models, self.graph, joined_scores(windows, runner.logger), self.settings
            )
            groups = {name: self.graph.groups[name] for name in keep_masks}
            last = self.settings.next_event(runner.iter + 1, runner.max_iters) is None
            if self.budget is not None:
                keep_masks, forced = self.budget.limit(model, groups, keep_masks, last=last)
                live = live or forced
            constants = [None] * len(models)
            if self.settings.criterion == 'collapsed':
                constants = [joined_constants(window) for window in windows[1:]]
            result, at_fault = cut(
                model,
                groups,
                keep_masks,
                probe=probe,
                outputs=None if live else outputs,
                constants=None if live else constants[0],
                norm_of=self.graph.norm_of,
                optimizers=optimizers_of(runner),
                settings=self.settings,
                logger=runner.logger,
            )
            self._excluded |= at_fault
            if result.plan:
                gone = {n: mask for n, mask in keep_masks.items() if n in result.channels_removed}
                for averaged, values in zip(averages, constants[1:]):
                    if values is not None and not live:
                        fold_constants(averaged, groups, gone, values, self.graph.norm_of)
                    apply_plan(averaged, result.plan)
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
        self._report(runner, before, result, widths, samples, time.perf_counter() - start)

    @staticmethod
    def _probe(models: list[nn.Module], window: ActivationWindow, probe: Tensor):
        """The first model's outputs, and what the readers see in each model."""
        windows, outputs = [window], []
        for model in models:
            now = ActivationWindow(model, window.groups, in_training_only=False)
            try:
                outputs.append(probe_outputs(model, probe, forward_tensors))
            finally:
                now.close()
            windows.append(now)
        return outputs[0], windows

    def _report(
        self,
        runner,
        before: Cost,
        result: Removal,
        widths: dict[str, int],
        samples: int,
        seconds: float,
    ) -> None:
        removed = sum(result.channels_removed.values())
        after = model_cost(bare_model(runner), self._positions)
        self._update_left(after)
        size = 'x'.join(map(str, self._probe_size))
        lines = [
            f'prune event at iteration {runner.iter + 1}: {removed} channels removed that were '
            f'dead on {samples} samples, {self.left["channels"]:.1%} left; '
            f'params {before.params:,} -> {after.params:,}; '
            f'MACs at {size} {before.macs / 1e6:,.1f} M -> {after.macs / 1e6:,.1f} M '
            f'({self.left["macs"]:.1%} left); outputs within {result.relative_error:.1e}; '
            f'{seconds:.2f} s'
        ]
        lines += [
            f'  {name}: -{n}, {widths[name]} left' for name, n in result.channels_removed.items()
        ]
        runner.logger.info('\n'.join(lines))
        runner.visualizer.add_scalar('demp/channels_removed', removed, runner.iter + 1)
