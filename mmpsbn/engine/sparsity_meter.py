"""Sparsity of the model in a runner, whatever its structure is by now."""

from ..pruning import (
    ChannelGraph,
    SparsityReport,
    count_positions,
    measure_sparsity,
    model_cost,
)
from .models import bare_model, example_inputs, forward_tensors, trace_at_any_size


class SparsityMeter:
    """Counts collapsed filters, and traces the model for FLOPs sparsity where it can.

    Args:
        threshold: on |gamma|, > 0.

    Attributes:
        batch: one of the run's batches, for the trace; None until :meth:`note_batch`.
    """

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.batch = None
        self._graph: ChannelGraph | None = None
        self._positions: dict = {}
        self._size = 0

    def note_batch(self, data_batch) -> None:
        """Keep the first batch seen."""
        if self.batch is None:
            self.batch = data_batch

    def graph(self, runner) -> ChannelGraph | None:
        """Of the model as it is now; None where it cannot be traced on its inputs alone, or
        before the first batch."""
        size = sum(parameter.numel() for parameter in bare_model(runner).parameters())
        if size != self._size and self.batch is not None:  # the first time, or pruned
            self._size = size
            self._trace(runner)
        return self._graph

    def measure(self, runner) -> SparsityReport:
        """Collapsed filters now; with FLOPs and weight sparsity where there is a graph."""
        model = bare_model(runner)
        graph = self.graph(runner)
        report = measure_sparsity(
            model,
            threshold=self.threshold,
            graph=graph,
            cost=model_cost(model, self._positions) if graph else None,
        )
        for name in report.not_finite:
            runner.logger.warning(f'{name}: gamma is NaN or inf')
        return report

    def _trace(self, runner) -> None:
        model = bare_model(runner)
        self._graph = None
        try:
            inputs = example_inputs(model, self.batch, 1)
            self._graph, inputs = trace_at_any_size(model, inputs)
            self._positions = count_positions(model, inputs, forward_tensors)
        except (RuntimeError, TypeError) as error:  # it watches: a run never ends over it
            runner.logger.warning(f'no FLOPs sparsity in the reports: {error}')
