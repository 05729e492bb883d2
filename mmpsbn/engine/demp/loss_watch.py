"""What a cut does to the training loss, said once it is known."""

from collections import deque
from collections.abc import Mapping

import torch
from mmengine.logging import MMLogger


class LossWatch:
    """Compares the mean training loss right before a cut with that right after it.

    Of rank 0, in whose log it is read. Losses wait as tensors: to read one waits for the GPU.

    Args:
        iterations: over how many the means are taken, >= 1.
    """

    def __init__(self, iterations: int):
        self._iterations = iterations
        self._losses: deque[torch.Tensor] = deque(maxlen=iterations)
        self._cut: tuple[int, float] | None = None  # iterations done at it, the loss before it

    def note(self, outputs: Mapping | None, logger: MMLogger) -> None:
        """What an iteration gave; ``loss`` is what MMEngine's models call the sum."""
        if not outputs or 'loss' not in outputs:
            return
        self._losses.append(torch.as_tensor(outputs['loss']).detach())
        if self._cut is not None and len(self._losses) == self._iterations:
            iteration, before = self._cut
            logger.info(
                f'the loss was {before:.4f} before the cut at iteration {iteration}, and is '
                f'{self._mean():.4f} after it (means of {self._iterations} iterations)'
            )
            self._cut = None

    def cut(self, iteration: int) -> None:
        """A cut has been made after so many iterations."""
        self._cut = (iteration, self._mean()) if self._losses else None
        self._losses.clear()

    def _mean(self) -> float:
        return float(torch.stack(list(self._losses)).mean())
