"""The settings of DemPHook: their defaults, and what each may be."""

import math
from dataclasses import dataclass

from ...functional.activations import DEAD_EPS
from ...functional.checks import is_number
from ...functional.perturbation import PENALTY_KINDS
from ...functional.schedules import Schedule, steps_of
from ...functional.statistics import COLLAPSED_GAMMA
from ...pruning.lossless import LOSSLESS_CRITERIA, NEVER_POSITIVE
from ...pruning.ranking import RANKING_CRITERIA
from ...pruning.saliency import GATE_SCORES
from ...pruning.verification import TOLERANCE
from ..arguments import (
    require,
    require_bool,
    require_count,
    require_not_negative,
    require_one_of,
    require_window,
)

TIMINGS = ('gradual', 'start', 'early')
SCOPES = ('gamma', 'all')
_CRITERIA = (*LOSSLESS_CRITERIA, NEVER_POSITIVE)
# Of training, until when live channels may go: what was cut must be trained on.
LAST_END = 0.9


@dataclass(frozen=True)
class PenaltySettings:
    """kind: lasso | l2. scope: gamma (scales of norm layers) | all (all weights but
    the offsets). peak: strength lambda at the schedule's peak, >= 0."""

    kind: str = 'lasso'
    scope: str = 'gamma'
    peak: float = 1e-3

    def __post_init__(self):
        require_one_of('penalty kind', self.kind, PENALTY_KINDS)
        require_one_of('penalty scope', self.scope, SCOPES)
        require_not_negative('penalty peak', self.peak)


@dataclass(frozen=True)
class NoiseSettings:
    """peak_std: standard deviation at the schedule's peak, per step, >= 0. asymmetric: live
    channels only.

    The text of the paper has 5e-5 for the variance (section 4.2). Its authors' code
    (SimonDufLab/Maxwell_demon) multiplies normal numbers by the 5e-5: it is their standard
    deviation. With the text's, 141 times as large, nets forget what they learn
    (configs/demp_cls/README.md).
    """

    peak_std: float = 5e-5
    asymmetric: bool = True

    def __post_init__(self):
        require_not_negative('noise peak_std', self.peak_std)
        require_bool('noise asymmetric', self.asymmetric)


@dataclass(frozen=True)
class ScheduleSettings(Schedule):
    """The course of penalty and noise over training."""

    type: str = 'one_cycle'
    warmup: float = 0.1
    end: float = 1.0


@dataclass(frozen=True)
class PruneSettings:
    """When and how channels are removed.

    Attributes:
        interval: iterations between events, >= 1.
        begin, end: fractions of training in which events happen.
        criterion: 'dead' | 'collapsed' (these, and channels whose |gamma| is below
            ``gamma_threshold`` in every norm; their constant goes into the bias of what reads
            them) | 'never_positive' (a <= ``eps`` wherever they are read; for Leaky ReLU, DemP
            appendix F.7: as with ``allow_live`` the outputs change, and the log says by how much).
        num_samples: training samples, over all ranks, on which a channel must have been dead,
            >= 1. Each layer that reads it must have seen a tenth of those looked at, so that a
            branch that few samples reach, or none, loses nothing.
        eps: |a| up to which a channel counts as 0. A dead ReLU gives exactly 0; activations
            without an exact 0 (GELU) need more than the default.
        gamma_threshold: >= 0, for ``'collapsed'``.
        fold_padding: fold constants also into layers that pad with zeros, where it is exact only
            away from the border.
        tolerance: largest relative change of the outputs on the probe that passes.
        on_failure: 'continue' (of the groups at fault only what was exactly 0 goes at that event,
            or nothing) | 'stop' (with an error).
        round_to: widths are kept at multiples of this. By default everything dead goes; 8, which
            GPUs compute faster (docs/pruned_speed.md), leaves up to 7 dead channels in a layer.
        allow_live: live channels go, those with the smallest |gamma| first, where the nearest
            multiple of ``round_to`` is below; none in the last tenth of the run.
        min_channels: a layer is never left with fewer.
    """

    interval: int = 5000
    begin: float = 0.0
    end: float = 1.0
    criterion: str = 'dead'
    num_samples: int = 512
    eps: float = DEAD_EPS
    gamma_threshold: float = COLLAPSED_GAMMA
    fold_padding: bool = False
    tolerance: float = TOLERANCE
    on_failure: str = 'continue'
    round_to: int = 1
    allow_live: bool = False
    min_channels: int = 1

    def __post_init__(self):
        for name in ('interval', 'num_samples', 'round_to', 'min_channels'):
            require_count(f'prune {name}', getattr(self, name))
        require_window('prune', self.begin, self.end)
        for name in ('eps', 'gamma_threshold', 'tolerance'):
            require_not_negative(f'prune {name}', getattr(self, name))
        for name in ('fold_padding', 'allow_live'):
            require_bool(f'prune {name}', getattr(self, name))
        require_one_of('prune on_failure', self.on_failure, ('continue', 'stop'))
        require(
            not self.allow_live or self.criterion == 'dead',
            "prune allow_live goes with criterion='dead': of live channels nothing can be folded, "
            f'got {self.criterion!r}',
        )
        require(
            not self.allow_live or self.begin < LAST_END,
            f'prune allow_live removes nothing live after {LAST_END} of the run, and begin is '
            f'{self.begin!r}: begin earlier, or leave allow_live out',
        )
        require_one_of('prune criterion', self.criterion, _CRITERIA)

    def next_event(self, step: int, total_steps: int) -> int | None:
        """Steps done at the first event after ``step`` of ``total_steps`` steps; None if
        no event is left."""
        first = max(step + 1, math.ceil(steps_of(self.begin, total_steps)))
        event = -(-first // self.interval) * self.interval
        return event if event <= steps_of(self.end, total_steps) else None


@dataclass(frozen=True)
class BudgetSettings:
    """What is to be left in the end, one of the first four, and by when.

    Attributes:
        flops, params, latency: fraction of the MACs, the parameters or the time at the run's start,
            in (0, 1).
        latency_ms: > 0.
        device: where the time of one image is measured, of the size that MACs are counted at: a
            device of torch, by default the model's, or 'onnxruntime', the exported model on one
            thread.
        begin, end: fractions of training between which channels go, end at most 0.9; by default
            those of ``window``, one by one.
        cuts: in how many steps they go; None is as many as the run has room for.
        score: 'fisher' (what the loss misses, :func:`.fisher_scores`), or to compare with one of
            RANKING_CRITERIA, or of GATE_SCORES (:func:`.gate_scores`), which take passes of their
            own.
        timing: 'gradual' (``cuts`` between ``begin`` and ``end``), 'start' (all at once before the
            first step, by one of GATE_SCORES) or 'early' (all at once at
            :class:`.EarlyCropTiming`).
        reconstruct: before a cut those that read the channels take over from them what a linear
            function of the channels that stay tells (:meth:`.InputMoments.reconstructed`). Not with
            the timings 'start' and 'early', which are others' methods.
    """

    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    device: str | None = None
    begin: float | None = None
    end: float | None = None
    cuts: int | None = None
    score: str = 'fisher'
    timing: str = 'gradual'
    reconstruct: bool = True

    def __post_init__(self):
        given = [name for name in self._kinds() if getattr(self, name) is not None]
        require(
            len(given) == 1, f'budget must be one of {self._kinds()}, got {given or "none of them"}'
        )
        bounded = self.kind != 'latency_ms'
        require(
            is_number(self.value) and self.value > 0 and not (bounded and self.value >= 1),
            f'budget {self.kind} must be a number {"in (0, 1)" if bounded else "> 0"}, got '
            f'{self.value!r}',
        )
        require(
            self.device is None or (self.is_latency and isinstance(self.device, str)),
            f'budget device is a string that goes with a latency, got {self.device!r}',
        )
        begin = 0.0 if self.begin is None else self.begin
        end = LAST_END if self.end is None else self.end
        require_window('budget', begin, end, last=LAST_END)
        if self.cuts is not None:
            require_count('budget cuts', self.cuts)
        require_one_of('budget score', self.score, ('fisher', *RANKING_CRITERIA, *GATE_SCORES))
        require_one_of('budget timing', self.timing, TIMINGS)
        paced = [name for name in ('begin', 'end', 'cuts') if getattr(self, name) is not None]
        require(
            self.timing == 'gradual' or not paced,
            f'budget timing {self.timing!r} has one cut, and {paced} would do nothing: leave them '
            'out',
        )
        require(
            self.timing != 'start' or self.score in GATE_SCORES,
            f"budget timing 'start' needs a score of {GATE_SCORES}, got {self.score!r}: before the "
            'first step there is nothing else to choose by',
        )
        require_bool('budget reconstruct', self.reconstruct)

    def window(self, *, finetunes: bool) -> tuple[float, float]:
        """``begin`` and ``end``, or what was best in docs/results.md: a trained detector has time
        to recover when it is cut at once; of random weights nobody knows yet what is needed.

        Args:
            finetunes: whether the run begins with the weights of a checkpoint.

        Raises:
            ValueError: what is set does not go with the default of the other.
        """
        begin, end = (0.0, 0.1) if finetunes else (0.2, 0.6)
        begin = begin if self.begin is None else self.begin
        end = end if self.end is None else self.end
        try:
            require_window('budget', begin, end, last=LAST_END)
        except ValueError as error:
            if None not in (self.begin, self.end):
                raise
            missing, value = ('begin', begin) if self.begin is None else ('end', end)
            how = 'with' if finetunes else 'without'
            raise ValueError(
                f'{error}; {missing} is {value} by default in a run {how} load_from: set it too'
            ) from None
        return begin, end

    @staticmethod
    def _kinds() -> tuple[str, ...]:
        return 'flops', 'params', 'latency', 'latency_ms'

    @property
    def kind(self) -> str:
        return next(name for name in self._kinds() if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        return getattr(self, self.kind)

    @property
    def measure(self) -> str:
        """What the budget is counted in."""
        if self.is_latency:
            return 'latency_ms'
        return 'macs' if self.kind == 'flops' else self.kind

    @property
    def is_latency(self) -> bool:
        return self.kind in ('latency', 'latency_ms')

    @property
    def reconstructs(self) -> bool:
        """Whether readers take over: not in what others have published."""
        return self.reconstruct and self.timing == 'gradual'

    def __str__(self) -> str:
        return f'budget {self.kind}={self.value}'
