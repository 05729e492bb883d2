"""Dying filters in words and numbers, while training goes on: when to look, and when to warn."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...functional.checks import is_number
from ...functional.statistics import COLLAPSED_GAMMA
from ...pruning.measures import Limits, counts_table
from ...pruning.sparsity import scale_layers
from ..arguments import build, names_its_arguments, require, require_count
from ..norms.beta_decay import check_beta_decay
from ..runner_parts import bare_model, epoch_length, in_epochs, whole_weights
from .alarm import Alarm, worst_layers
from .channel_watch import ChannelWatch
from .diagnosis import likely_causes
from .forecast import collapse_forecast
from .growth import load_growth, save_growth
from .reading import ALL_MEASURES, DATA_MEASURES, Reading
from .settings import ActivationSettings

DEFAULT_MEASURES = ('collapsed', 'flops_sparsity', 'dead')


@HOOKS.register_module()
class SparsityHook(Hook):
    """Report collapsed, dead and idle filters while a model trains.

    Every ``interval`` iterations what the weights alone tell, every epoch (or, where epochs are
    short, every few) also what activations tell: scalars ``sparsity/...`` to the visualizer
    (JSON log, TensorBoard and what else is there) and one line in the log. At the end of every
    epoch also a table of the layers concerned; at the end of training a table of all layers.
    When training starts, one line says after how many steps weight decay brings a filter that
    dies below the threshold, or that this run is too short for that.

    Activations are measured in eval mode, at the layers that read a channel first, so after
    the addition in a residual stream, over all ranks, and are not kept.

    | measure | scalars | which channels |
    |---|---|---|
    | ``collapsed`` | ``collapsed``, ``collapsed_fraction`` | \\|gamma\\| < gamma_threshold (*) |
    | ``hardly_active`` | ``hardly_active_fraction`` | Phi(b / \\|gamma\\|) < 0.01 |
    | ``dead`` | ``dead_fraction`` | max \\|a\\| <= eps on all that was looked at |
    | ``mostly_zero`` | ``mostly_zero_fraction`` | Pr[a = 0] > 0.99 |
    | ``flops_sparsity``, ``weight_sparsity`` | the same | MACs, weights without the collapsed |
    | ``universality`` | ``universality`` | the mean over channels |
    | ``revival`` | ``revived``, ``dead_overlap`` | dead before and now alive; DemP appendix C |

    (*) In a layer that stands at gamma = 0 when training starts (``zero_init_residual``: gamma of
    every channel exactly 0, one bias for all, untouched running statistics), a channel below the
    threshold that was at ten times the threshold in no report yet has not collapsed: it is
    ``not_grown``, a scalar where there are such layers.

    Args:
        interval: iterations between reports, >= 1.
        gamma_threshold: on |gamma|, > 0. The papers use 1e-3 and 1e-2, and 0.01/0.05/0.1 for
            BN-only training. Of several the first is the one that counts; the scalars
            ``collapsed_below_0.01_fraction`` tell of the others.
        measures: of the table above. Without a measure of activations nothing but the
            weights is looked at.
        layers: patterns (``'backbone.layer4.*'``) for the names of the layers to look at; by
            default all.
        activations: see :class:`.settings.ActivationSettings`. What differs between two looks is
            the weights alone if its ``loader`` gives the same batches each time.
        warn_at: measure -> share of channels, as ``dict(collapsed=0.05)``: a warning with the worst
            layers, the likely causes and the remedies when it is reached, and each time it has
            doubled.
        stop_at: the same, and training stops: at the end of the epoch where it is by epochs.
        name: where several hooks watch one training: the scalars are ``sparsity/<name>/...``.

    Raises:
        ValueError: an argument out of range; a model without a normalisation scale or without
            a layer that fits a pattern, before the first step.
    """

    priority = 'LOW'  # after optimizer, EMA and pruning have had their turn

    @names_its_arguments
    def __init__(
        self,
        interval: int = 100,
        gamma_threshold: float | Sequence[float] = COLLAPSED_GAMMA,
        measures: Sequence[str] = DEFAULT_MEASURES,
        layers: Sequence[str] | None = None,
        activations: dict | None = None,
        warn_at: dict | None = None,
        stop_at: dict | None = None,
        name: str = '',
    ):
        require_count('interval', interval)
        thresholds = _as_list(gamma_threshold)
        require(
            thresholds and all(is_number(t) and t > 0 for t in thresholds),
            f'gamma_threshold must be > 0 and finite, got {gamma_threshold!r}',
        )
        require(
            measures and all(measure in ALL_MEASURES for measure in measures),
            f'measures must be some of {ALL_MEASURES}, got {measures!r}',
        )
        require(isinstance(name, str), f'name must be a string, got {name!r}')
        self.name = name
        self.interval = interval
        self.activations: ActivationSettings = build(ActivationSettings, 'activations', activations)
        limits = [Limits(gamma=t, eps=self.activations.eps) for t in thresholds]
        self._watch = ChannelWatch(limits, measures, layers and _as_list(layers))
        self._warn = Alarm('warn_at', warn_at, measures)
        self._stop = Alarm('stop_at', stop_at, measures)
        self._needs_data = any(measure in DATA_MEASURES for measure in measures)
        self._batches: deque = deque(maxlen=self.activations.num_batches)
        self._loader = None
        self._iters_between = 1  # two looks at activations
        self._at_start = Reading()
        self._reported_step = -1

    def before_train(self, runner) -> None:
        model = bare_model(runner)
        if not scale_layers(model):
            raise ValueError(
                'SparsityHook looks at the scales (gamma) of BatchNorm, InstanceNorm and '
                f'GroupNorm layers; {type(model).__name__} has none'
            )
        self._watch.check_layers(model)
        self._iters_between = self.activations.interval(epoch_length(runner.train_dataloader))
        check_beta_decay(runner)
        with whole_weights(runner):
            runner.logger.info(collapse_forecast(runner, threshold=self._watch.limits.gamma))
            self._watch.begin(runner)
            if not runner.iter:  # what a resumed run began with is not known here
                self._at_start = self._watch.read_weights(runner)
        if self._needs_data and self.activations.loader is not None:
            self._loader = Runner.build_dataloader(self.activations.loader, seed=runner.seed)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._batches.append(data_batch)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._ends_epoch(runner, batch_idx):  # which reports more, in a moment
            return
        due = self.every_n_train_iters(runner, self._iters_between)
        if due or self.every_n_train_iters(runner, self.interval):
            reading = self._report(runner, step=runner.iter + 1, with_data=due)
            runner.logger.info(self._summary(reading))

    def _ends_epoch(self, runner, batch_idx: int) -> bool:
        """Whether the iteration that just ended is an epoch's last; a run by iterations is
        one epoch."""
        if in_epochs(runner):
            return self.end_of_epoch(runner.train_dataloader, batch_idx)
        return self.is_last_train_iter(runner)

    def after_train_epoch(self, runner) -> None:
        if runner.iter == self._reported_step:  # where a run by iterations was stopped early
            return
        due = runner.iter % self._iters_between == 0
        reading = self._report(runner, step=runner.iter, with_data=due)  # already counted here
        text = self._summary(reading)
        if any(counts.total[0] for counts in reading.counts.values()):
            text += '\n' + counts_table(reading.counts, only_found=True)
        runner.logger.info(text)

    def after_train(self, runner) -> None:
        reading = self._read(runner, with_data=True)
        runner.logger.info(f'{self._summary(reading)}, by layer:\n{counts_table(reading.counts)}')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        save_growth(runner, checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        load_growth(runner, checkpoint)

    def _read(self, runner, *, with_data: bool) -> Reading:
        with whole_weights(runner):
            if self._batches:
                self._watch.follow(runner, self._batches[-1])
            reading = self._watch.read_weights(runner)
            if with_data and self._needs_data and self._watch.graph is not None:
                self._add_activations(runner, reading)
        return reading

    def _add_activations(self, runner, reading: Reading) -> None:
        try:
            seen = self._watch.read_activations(runner, self._batches_to_look_at())
        except Exception as error:  # it watches: a run never ends over it
            runner.logger.warning(f'no activations in this report: {error}')
        else:
            reading.counts |= seen.counts
            reading.values |= seen.values

    def _batches_to_look_at(self) -> Iterator:
        """A generator: the loader begins within the look, whose random numbers are its own."""
        if self._loader is None:
            yield from self._batches
        else:
            yield from islice(self._loader, self.activations.num_batches)

    def _report(self, runner, *, step: int, with_data: bool) -> Reading:
        reading = self._read(runner, with_data=with_data)
        self._reported_step = step
        if values := reading.scalars(name=self.name):
            runner.visualizer.add_scalars(values, step=step)
        for measure in self._warn.reached(reading.counts):
            runner.logger.warning(self._alarm_text(runner, self._warn, measure, reading))
        for measure in self._stop.reached(reading.counts):
            text = self._alarm_text(runner, self._stop, measure, reading)
            runner.logger.error(f'{text}. Training stops')
            runner.train_loop.stop_training = True
        return reading

    def _alarm_text(self, runner, alarm: Alarm, measure: str, reading: Reading) -> str:
        counts, at_start = reading.counts[measure], self._at_start.counts.get(measure)
        causes = likely_causes(
            runner,
            worst_layers(counts),
            threshold=self._watch.limits.gamma,
            at_start=at_start is not None and at_start.share >= alarm.limits[measure],
        )
        return alarm.text(measure, counts, at_start, causes)

    def _summary(self, reading: Reading) -> str:
        return reading.summary(
            name=self.name,
            gamma_threshold=self._watch.limits.gamma,
            counted_size=self._watch.counted_size,
        )


def _as_list(value) -> list:
    return [value] if isinstance(value, (str, float, int)) else list(value)
