"""Collapsed filters in words and numbers, while training goes on."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..functional.checks import is_count, is_number
from ..pruning import (
    ChannelGraph,
    SparsityReport,
    count_positions,
    measure_sparsity,
    model_cost,
    scale_layers,
)
from .beta_decay import warn_if_beta_not_decayed
from .forecast import collapse_forecast
from .models import bare_model, example_inputs, forward_tensors, trace_at_any_size


@HOOKS.register_module()
class SparsityHook(Hook):
    """Report collapsed filters (|gamma| < threshold) of every normalisation layer.

    Every ``interval`` iterations: scalars ``sparsity/collapsed``,
    ``sparsity/collapsed_fraction`` and ``sparsity/flops_sparsity`` to the visualizer
    (JSON log, TensorBoard and what else is there) and one line in the log. At the end of
    every epoch also a table of the layers that have collapsed filters; at the end of
    training a table of all layers. A report moves data off the device once. When training
    starts, one line says after how many steps weight decay brings a filter that dies below
    the threshold, or that this run is too short for that.

    Args:
        interval: iterations between reports, >= 1.
        gamma_threshold: on |gamma|, > 0. The papers use 1e-3 and 1e-2, and
            0.01/0.05/0.1 for BN-only training.

    Raises:
        ValueError: an argument out of range; a model without a normalisation scale,
            before the first step.
    """

    priority = 'LOW'  # after optimizer, EMA and pruning have had their turn

    def __init__(self, interval: int = 100, gamma_threshold: float = 1e-3):
        if not is_count(interval):
            raise ValueError(f'interval must be an int >= 1, got {interval!r}')
        if not (is_number(gamma_threshold) and gamma_threshold > 0):
            raise ValueError(f'gamma_threshold must be > 0 and finite, got {gamma_threshold!r}')
        self.interval = interval
        self.gamma_threshold = gamma_threshold
        self._batch = None
        self._reported_step = -1
        self._positions: dict = {}
        self._graph: ChannelGraph | None = None
        self._channels = 0

    def before_train(self, runner) -> None:
        if not scale_layers(bare_model(runner)):
            raise ValueError(
                'SparsityHook looks at the scales (gamma) of BatchNorm, InstanceNorm and '
                f'GroupNorm layers; {type(bare_model(runner)).__name__} has none'
            )
        warn_if_beta_not_decayed(runner)
        runner.logger.info(collapse_forecast(runner, threshold=self.gamma_threshold))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self._batch is None:
            self._batch = data_batch

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            report = self._report(runner, step=runner.iter + 1)
            runner.logger.info(self._summary(report))

    def after_train_epoch(self, runner) -> None:
        report = self._report(runner, step=runner.iter)  # already counted here
        table = report.table(only_collapsed=True) if report.totals[0] else ''
        runner.logger.info(f'{self._summary(report)}\n{table}'.rstrip())

    def after_train(self, runner) -> None:
        report = self._measure(runner)
        runner.logger.info(f'{self._summary(report)}, by layer:\n{report.table()}')

    def _measure(self, runner) -> SparsityReport:
        model = bare_model(runner)
        channels = sum(layer.weight.numel() for layer in scale_layers(model).values())
        if channels != self._channels:  # the first report, or the model was pruned
            self._channels = channels
            self._trace(runner)
        report = measure_sparsity(
            model,
            threshold=self.gamma_threshold,
            graph=self._graph,
            cost=model_cost(model, self._positions) if self._graph else None,
        )
        for name in report.not_finite:
            runner.logger.warning(f'{name}: gamma is NaN or inf')
        return report

    def _trace(self, runner) -> None:
        model = bare_model(runner)
        self._graph = None
        if self._batch is None:  # no iteration ran
            return
        try:
            inputs = example_inputs(model, self._batch, 1)
            self._graph, inputs = trace_at_any_size(model, inputs)
            self._positions = count_positions(model, inputs, forward_tensors)
        except (RuntimeError, TypeError) as error:  # it watches: a run never ends over it
            runner.logger.warning(f'no FLOPs sparsity in the reports: {error}')

    def _report(self, runner, step: int) -> SparsityReport:
        report = self._measure(runner)
        collapsed, channels = report.totals
        scalars = {
            'sparsity/collapsed': collapsed,
            'sparsity/collapsed_fraction': collapsed / channels,
        }
        if report.flops_sparsity is not None:
            scalars['sparsity/flops_sparsity'] = report.flops_sparsity
        if step != self._reported_step:  # an epoch may end where an interval does
            runner.visualizer.add_scalars(scalars, step=step)
            self._reported_step = step
        return report

    def _summary(self, report: SparsityReport) -> str:
        collapsed, channels = report.totals
        text = (
            f'sparsity: {collapsed} of {channels} filters collapsed '
            f'(|gamma| < {self.gamma_threshold:g}), {collapsed / channels:.2%}'
        )
        if report.flops_sparsity is not None:
            text += f'; FLOPs sparsity {report.flops_sparsity:.2%}'
        return text
