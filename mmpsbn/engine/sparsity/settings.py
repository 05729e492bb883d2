"""The settings of SparsityHook: their defaults, and what each may be."""

import math
from dataclasses import dataclass

from ...functional.activations import DEAD_EPS
from ..arguments import require, require_count, require_not_negative

# Looking at one batch costs 0.4 of an iteration; once per 100 iterations that is 0.4 %.
_ITERATIONS_PER_BATCH = 100


@dataclass(frozen=True)
class ActivationSettings:
    """On what SparsityHook measures activations.

    interval_epochs: between two measurements, >= 1; None is every epoch or, where epochs are
    short, every so many that 100 iterations pass per batch looked at, which keeps the cost under
    0.5 % of training. num_batches: how many batches, >= 1. loader:
    config of a data loader whose first batches are taken, a probe set that stays the same; by
    default the last training batches. eps: |a| up to which a channel counts as dead, >= 0
    (Mehta et al. section 2.1: 1e-12, and 1e-4 gives the same).
    """

    interval_epochs: int | None = None
    num_batches: int = 2
    loader: dict | None = None
    eps: float = DEAD_EPS

    def __post_init__(self):
        if self.interval_epochs is not None:
            require_count('activations interval_epochs', self.interval_epochs)
        require_count('activations num_batches', self.num_batches)
        require(
            self.loader is None or isinstance(self.loader, dict),
            f"activations loader must be a data loader's config, got {self.loader!r}",
        )
        require_not_negative('activations eps', self.eps)

    def interval(self, epoch_length: int | None) -> int:
        """Iterations between two measurements: whole epochs, except where the data have no length
        and ``epoch_length`` is None.

        Raises:
            ValueError: an interval in epochs of such data.
        """
        least = _ITERATIONS_PER_BATCH * self.num_batches
        if epoch_length is not None:
            return epoch_length * (self.interval_epochs or math.ceil(least / epoch_length))
        require(
            self.interval_epochs is None,
            f'activations interval_epochs={self.interval_epochs} counts epochs, and the training '
            'data do not know how long one is (IterableDataset); leave it out',
        )
        return least
