"""Prune events inside a training run: watch, select, cut, report."""

import time

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..functional.selection import select_keep_mask
from ..pruning import (
    ActivationWindow,
    ChannelGraph,
    Cost,
    PruneResult,
    VerificationError,
    apply_plan,
    count_positions,
    model_cost,
    prune_channels,
    trace_channel_graph,
)
from ..pruning.verification import probe_outputs
from .models import (
    averaged_models_of,
    bare_model,
    example_inputs,
    forward_tensors,
    optimizers_of,
    unwrapped_model,
)
from .pruned_structure import PrunedStructure
from .settings import PruneSettings

# Largest relative change of float32 outputs that passes for another order of summation;
# RetinaNet-R50 shows 1e-6.
_TOLERANCE = 1e-5


def _agree(error: float) -> float:
    """The largest of all ranks' errors."""
    joined = torch.tensor([error])
    all_reduce(joined, op='max')
    return float(joined)


class OnlinePruner:
    """Removes dead channels from a runner's model at the events of its settings.

    The statistics come from the training passes of the window before an event, and from
    a probe with the weights as they are at the event. Over ranks the maximum counts, so
    a channel goes only where it is dead on every rank, and goes everywhere.
    """

    def __init__(self, settings: PruneSettings):
        self.settings = settings
        self.structure = PrunedStructure()
        self.graph: ChannelGraph | None = None
        # Fractions of the dense model's prunable channels and MACs that are left.
        self.left: dict[str, float] = {}
        self._dense: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._size = ''
        self._excluded: set[str] = set()
        self._window: ActivationWindow | None = None
        self._saved_window: dict[str, list] = {}

    # --- state ------------------------------------------------------------------

    def state(self) -> dict:
        """What a resumed run must know beside the plan, plain types."""
        window = self._window.state() if self._window else self._saved_window
        return dict(dense=self._dense, excluded=sorted(self._excluded), window=window)

    def restore(self, state: dict) -> None:
        self._dense = state['dense']
        self._excluded = set(state['excluded'])
        self._saved_window = state['window']

    # --- before the first iteration ------------------------------------------------

    def start(self, runner, data_batch: dict) -> None:
        """Trace the model on a batch.

        Raises:
            ValueError: there is no group of channels to prune.
            RuntimeError: the model cannot be traced.
        """
        model = bare_model(runner)
        inputs = example_inputs(model, data_batch, 1)
        self._trace(model, inputs)
        left_whole = '; '.join(f'{n} ({r})' for n, r in self.graph.skipped.items())
        if not self.graph.groups:
            raise ValueError(
                f'{type(model).__name__} has no group of channels that can be pruned: {left_whole}'
            )
        self._positions = count_positions(model, inputs, forward_tensors)
        self._size = 'x'.join(map(str, inputs.shape[2:]))
        cost = model_cost(model, self._positions)
        if not self._dense:
            self._dense = dict(channels=self._channels(), macs=cost.macs)
        self._update_left(cost)
        runner.logger.info(
            f'{self._channels()} channels in {len(self.graph.groups)} groups can be '
            f'pruned; left whole: {left_whole or "none"}'
        )

    def _trace(self, model: nn.Module, inputs: Tensor) -> None:
        self.graph = trace_channel_graph(model, inputs, forward_tensors)

    def _update_left(self, cost: Cost) -> None:
        self.left = dict(
            channels=self._channels() / self._dense['channels'],
            macs=cost.macs / self._dense['macs'],
        )

    def _channels(self) -> int:
        return sum(group.channels for group in self.graph.groups.values())

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Trainable parameters that write the prunable channels: convolutions and the
        normalisation behind them."""
        layers = {
            member.layer: None
            for group in self.graph.groups.values()
            for member in (*group.writers, *group.norms)
        }
        return [
            p
            for name in layers
            for p in model.get_submodule(name).parameters(recurse=False)
            if p.requires_grad
        ]

    # --- events -------------------------------------------------------------------

    def watch(self, runner, data_batch: dict) -> None:
        """Open the window of the next event when its first sample comes."""
        event = self.settings.next_event(runner.iter, runner.max_iters)
        if self._window is not None or event is None:
            return
        samples = len(data_batch['inputs']) * runner.world_size
        if runner.iter >= event - -(-self.settings.num_samples // samples):
            model = bare_model(runner)
            groups = {n: g for n, g in self.graph.groups.items() if n not in self._excluded}
            self._window = ActivationWindow(model, groups, in_training_only=True)
            self._window.restore(self._saved_window, next(model.parameters()).device)
            self._saved_window = {}

    def is_due(self, runner) -> bool:
        """Whether the iteration that just ended is an event's."""
        return self.settings.next_event(runner.iter, runner.max_iters) == runner.iter + 1

    def prune(self, runner, data_batch: dict) -> None:
        """Remove the channels that were dead in the window and still are."""
        start = time.perf_counter()
        window, self._window = self._window, None
        window.close()
        before = model_cost(bare_model(runner), self._positions)
        with unwrapped_model(runner) as model:
            probe = example_inputs(model, data_batch, 2)
            now = ActivationWindow(model, window.groups, in_training_only=False)
            try:
                outputs = probe_outputs(model, probe, forward_tensors)
            finally:
                now.close()
            keep_masks = self._select(runner, window, now)
            result = self._cut(runner, model, keep_masks, probe, outputs)
            if result.plan:
                for averaged in averaged_models_of(runner):
                    apply_plan(averaged, result.plan)
                self.structure.extend(result.plan)
                self._trace(model, probe[:1])
        self._report(runner, before, result, time.perf_counter() - start)

    def _select(self, runner, window: ActivationWindow, now: ActivationWindow) -> dict[str, Tensor]:
        """Keep masks from what was seen in the window and with the weights of now."""
        seen, seen_now = window.scores(), now.scores()
        # NaN would not survive a maximum over ranks on every backend; inf does
        scores = {
            name: torch.maximum(seen[name], seen_now[name]).nan_to_num(
                nan=float('inf'), posinf=float('inf')
            )
            for name in seen
        }
        joined = torch.cat(list(scores.values()))
        all_reduce(joined, op='max')
        joined = joined.cpu().split([len(score) for score in scores.values()])
        for name, score in zip(scores, joined):
            if not score.isfinite().all():
                runner.logger.warning(
                    f'{name}: NaN or inf in the activations of '
                    f'{int((~score.isfinite()).sum())} channels; they count as alive'
                )
        return {
            name: select_keep_mask(
                score,
                threshold=0.0,
                round_to=self.settings.round_to,
                min_channels=self.settings.min_channels,
            )
            for name, score in zip(scores, joined)
        }

    def _cut(
        self,
        runner,
        model: nn.Module,
        keep_masks: dict[str, Tensor],
        probe: Tensor,
        outputs: list[Tensor],
    ) -> PruneResult:
        while True:
            try:
                return prune_channels(
                    model,
                    self.graph.groups,
                    keep_masks,
                    batch=probe,
                    forward_fn=forward_tensors,
                    optimizers=optimizers_of(runner),
                    tolerance=_TOLERANCE,
                    outputs_before=outputs,
                    agree=_agree,
                )
            except VerificationError as error:
                runner.logger.error(f'{error}; these groups stay whole from now on')
                self._excluded.update(error.groups)
                keep_masks = {
                    name: mask for name, mask in keep_masks.items() if name not in self._excluded
                }

    def _report(self, runner, before: Cost, result: PruneResult, seconds: float) -> None:
        removed = sum(result.channels_removed.values())
        after = model_cost(bare_model(runner), self._positions)
        self._update_left(after)
        lines = [
            f'prune event at iteration {runner.iter + 1}: {removed} channels removed, '
            f'{self.left["channels"]:.1%} left; params {before.params:,} -> {after.params:,}; '
            f'MACs at {self._size} {before.macs / 1e9:.3f} G -> {after.macs / 1e9:.3f} G '
            f'({self.left["macs"]:.1%} left); outputs within {result.relative_error:.1e}; '
            f'{seconds:.2f} s'
        ]
        groups = self.graph.groups
        lines += [
            f'  {name}: -{n}, {groups[name].channels} left'
            for name, n in result.channels_removed.items()
        ]
        runner.logger.info('\n'.join(lines))
        runner.visualizer.add_scalar('demp/channels_removed', removed, runner.iter + 1)
