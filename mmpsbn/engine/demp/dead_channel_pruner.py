"""The paper's demon: what was dead in the window before an event and still is goes."""

import dataclasses
import time

from torch import Tensor, nn

from ...functional.schedules import steps_of
from ...pruning.lossless import NEVER_POSITIVE
from ...pruning.verification import output_errors, probe_outputs
from ..openmmlab import forward_tensors
from ..runner_parts import averaged_models_of, bare_model, optimizers_of, unwrapped_model
from .online_pruner import OnlinePruner
from .progress import what_went
from .prune_event import cut, look_at, select_keep_masks
from .settings import LAST_END, PruneSettings
from .window import EventWindow, peak_activations


class DeadChannelPruner(OnlinePruner):
    """Nothing is lost: what goes is 0 on all samples looked at (DemP algorithm 1), or has
    collapsed, but for what the settings allow beside it.

    The statistics come from the training passes of the window before an event, and from
    a probe with the weights as they are at the event. Over ranks the maximum counts, so a
    channel goes only where it is dead on every rank, and goes everywhere. Averages of the model
    (EMA) are watched like it.
    """

    kind = None  # of a budget

    def __init__(self, settings: PruneSettings):
        super().__init__(hold_what_is_not_read=False)
        self.settings = settings
        self._window = EventWindow(settings.num_samples)
        # Parameter that writes prunable channels at the run's start -> dimension of these.
        self._channel_dims: dict[str, int] = {}

    def state(self) -> dict:
        return dict(**super().state(), channel_dims=self._channel_dims, **self._window.state())

    def restore(self, state: dict) -> None:
        super().restore(state)
        self._window.restore(state)
        self._channel_dims = state['channel_dims']

    def end(self, runner) -> None:
        self._window.close()
        super().end(runner)

    def start(self, runner, data_batch: dict) -> Tensor:
        """As :meth:`.OnlinePruner.start`.

        Raises:
            ValueError: besides, there is no event in the run.
        """
        resumed = self.progress.has_begun
        if self.next_event(runner) is None and not resumed:
            raise ValueError(
                f'no prune event fits into {runner.max_iters} iterations with '
                f'interval={self.settings.interval}, begin={self.settings.begin} and '
                f'end={self.settings.end}; make the interval shorter'
            )
        example = super().start(runner, data_batch)
        self._window.start(data_batch)
        if not resumed:
            self._channel_dims = {
                f'{member.layer}.{name}'.lstrip('.'): dim
                for group in self.graph.groups.values()
                for member in (*group.writers, *group.channelwise)
                for name, dim in member.slices
            }
        return example

    def parameters(self, model: nn.Module) -> dict[nn.Parameter, int]:
        """Trainable parameters that wrote the prunable channels when the run began, of
        convolutions and the normalisation behind them -> the dimension of these channels."""
        parameters = dict(model.named_parameters())
        return {
            parameters[name]: dim
            for name, dim in self._channel_dims.items()
            if name in parameters and parameters[name].requires_grad  # buffers are in it too
        }

    def next_event(self, runner) -> int | None:
        return self.settings.next_event(runner.iter, runner.max_iters)

    @property
    def is_open(self) -> bool:
        return self._window.is_open

    @property
    def watching(self) -> bool:
        return self.is_open or super().watching

    def before_iteration(self, runner, data_batch: dict) -> None:
        """Open the window of the next event when its first sample comes, and look on."""
        event = self.next_event(runner)
        if event is None:
            return
        if not self.is_open:
            if runner.iter < self._window.opens_at(event) or not self.prunable:
                return
            self._window.open(runner, self.prunable)
            self._coverage.open(bare_model(runner))
        self._window.see(runner, data_batch)

    def after_iteration(self, runner, data_batch: dict, outputs: dict | None) -> None:
        self._window.join(runner)
        super().after_iteration(runner, data_batch, outputs)

    def _settings_at(self, runner) -> PruneSettings:
        """In the end no live channel goes to round a width: what is cut must be trained on."""
        if runner.iter < steps_of(LAST_END, runner.max_iters):
            return self.settings
        return dataclasses.replace(self.settings, allow_live=False)

    def prune(self, runner, data_batch: dict) -> None:
        """Remove the channels that were dead in the window and still are."""
        start = time.perf_counter()
        windows, samples = self._window.close()
        self._coverage.close()
        if self._coverage.unknown:
            self._skip(runner, '; '.join(self._coverage.unknown))
            return
        with unwrapped_model(runner, who='DemPHook') as model:
            models = [model, *averaged_models_of(runner)]
            probe = self._probe_of(model, data_batch)
            seen = look_at(models, windows[0].groups, probe)
            if seen is None:
                self._skip(runner, 'the outputs are NaN or inf before pruning')
                return
            probes, before = seen
            scores = peak_activations(
                windows,
                probes,
                runner.logger,
                samples=samples,
                positive=self.settings.criterion == NEVER_POSITIVE,
            )
            # the losses may have held a group while the window was open
            scores = {name: score for name, score in scores.items() if name in self.prunable}
            keep_masks, live = select_keep_masks(
                models, self.graph, scores, self._settings_at(runner)
            )
            groups = {name: self.graph.groups[name] for name in keep_masks}
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
            change = None
            if live:
                _, change = output_errors(before, probe_outputs(model, probe, forward_tensors))
            if removal.plan:
                self._follow(model, removal.plan, probe)
        self.progress.log_event(
            runner,
            bare_model(runner),
            removal,
            removed_as=what_went(removal.keep_masks, scores, self.settings, samples=samples),
            change=change,
            seconds=time.perf_counter() - start,
        )
