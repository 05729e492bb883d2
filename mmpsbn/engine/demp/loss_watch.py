"""What a cut does to the training loss, said once it is known."""

from collections import deque
from collections.abc import Mapping

import torch
from mmengine.logging import MMLogger


class LossWatch:
    """Compares the mean training loss right before a cut with that right after it.

    Of rank 0, in whose log it is read. Losses wait as tensors: to read one waits for the GPU.

    Args:
        iterations: over how many the means are taken at most, >= 1.
    """

    def __init__(self, iterations: int):
        self._losses: deque[torch.Tensor] = deque(maxlen=iterations)
        self._cut: dict | None = None  # iterations done at it, and the losses before it

    def state(self) -> dict:
        """Plain types."""
        return dict(losses=[float(loss) for loss in self._losses], cut=self._cut)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave."""
        self._losses.clear()
        self._losses.extend(map(torch.tensor, state['losses']))
        self._cut = state['cut']

    def note(self, outputs: Mapping | None, logger: MMLogger) -> None:
        """What an iteration gave; ``loss`` is what MMEngine's models call the sum."""
        if not outputs or 'loss' not in outputs:
            return
        self._losses.append(torch.as_tensor(outputs['loss']).detach())
        if len(self._losses) == self._losses.maxlen:
            self.end(logger)

    def cut(self, iteration: int) -> None:
        """A cut has been made after so many iterations."""
        count = len(self._losses)
        self._cut = dict(iteration=iteration, mean=self._mean(), count=count) if count else None
        self._losses.clear()

    def end(self, logger: MMLogger) -> None:
        """Say what is known of the last cut, unless it was said."""
        if self._cut is not None and self._losses:
            logger.info(
                f'the loss was {self._cut["mean"]:.4f} in the {self._cut["count"]} iterations '
                f'before the cut at iteration {self._cut["iteration"]}, and {self._mean():.4f} in '
                f'the {len(self._losses)} after it'
            )
            self._cut = None

    def _mean(self) -> float:
        # those before a resume are on the CPU
        return float(torch.stack([loss.cpu() for loss in self._losses]).mean())
