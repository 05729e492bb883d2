"""The settings of SparsityHook: their defaults, and what each may be."""

import math
from dataclasses import dataclass

from ...functional.checks import is_count, is_number
from ..arguments import require

# Looking at one batch costs 0.4 of an iteration; once per 100 iterations that is 0.4 %.
_ITERATIONS_PER_BATCH = 100


@dataclass(frozen=True)
class ActivationSettings:
    """On what SparsityHook measures activations.

    interval: epochs between measurements, >= 1; None is every epoch or, where epochs are
    short, every so many that 100 iterations pass per batch looked at, which keeps the cost under
    0.5 % of training. num_batches: how many batches, >= 1. loader:
    config of a data loader whose first batches are taken, a probe set that stays the same; by
    default the last training batches. eps: |a| up to which a channel counts as dead, >= 0
    (Mehta et al. section 2.1: 1e-12, and 1e-4 gives the same).
    """

    interval: int | None = None
    num_batches: int = 2
    loader: dict | None = None
    eps: float = 1e-12

    def __post_init__(self):
        require(
            self.interval is None or is_count(self.interval),
            f'activations interval must be an int >= 1 or None, got {self.interval!r}',
        )
        require(
            is_count(self.num_batches),
            f'activations num_batches must be an int >= 1, got {self.num_batches!r}',
        )
        require(
            self.loader is None or isinstance(self.loader, dict),
            f"activations loader must be a data loader's config, got {self.loader!r}",
        )
        require(
            is_number(self.eps) and self.eps >= 0,
            f'activations eps must be a finite number >= 0, got {self.eps!r}',
        )

    def epochs_between(self, iterations: int) -> int:
        """``interval``, or what None stands for in epochs of so many iterations."""
        return self.interval or math.ceil(_ITERATIONS_PER_BATCH * self.num_batches / iterations)

    def iterations_between(self, epoch_length: int | None) -> int:
        """The same in iterations; of data without a length, ``epoch_length`` being None, what
        keeps the cost as low.

        Raises:
            ValueError: an interval in epochs of such data.
        """
        if epoch_length is not None:
            return self.epochs_between(epoch_length) * epoch_length
        require(
            self.interval is None,
            f'activations interval={self.interval} counts epochs, and the training data do not '
            'know how long one is (IterableDataset); leave interval out',
        )
        return _ITERATIONS_PER_BATCH * self.num_batches
