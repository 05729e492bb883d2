"""The window before a prune event: when it opens, and what the models see in it."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import MMLogger
from torch import Tensor

from ...pruning.activation import ActivationWindow
from ...pruning.forward import observing
from ...pruning.graph import ChannelGroup
from ..openmmlab import example_inputs, forward_tensors
from ..ranks import joined_scores, over_ranks, reduced
from ..runner_parts import averaged_models_of, bare_model


class EventWindow:
    """What a model and its averages see of the last training samples before an event.

    The model's training passes happen anyway. What is validated and saved may be an average of
    the model (EMA), in which other channels are alive: so each average sees the training batches
    too, in eval mode, which costs a forward pass without gradients for each average and batch.
    Over ranks an iteration in a window also has three all-reduces, of two numbers a channel and
    one a reader and a layer, since a checkpoint is written by one rank and must hold what all
    have seen.

    Args:
        num_samples: how many samples, over all ranks, a window is to see.

    Attributes:
        samples: how many the window has seen so far, over all ranks.
    """

    def __init__(self, num_samples: int):
        self._num_samples = num_samples
        self._batch_size = 0
        self._windows: list[ActivationWindow] = []  # of the model and of its averages
        self._saved: list[dict] = []  # of a resumed run, until the window opens again
        self.samples = 0

    def state(self) -> dict:
        """What a resumed run must know, plain types."""
        windows = [window.state() for window in self._windows]
        return dict(windows=windows or self._saved, samples=self.samples)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave, perhaps among other entries."""
        self._saved, self.samples = state['windows'], state['samples']

    def start(self, data_batch: dict) -> None:
        """Measure the batches of all ranks on the first one: these must open a window together,
        and a later batch may be smaller on one of them."""
        self._batch_size = int(reduced(torch.tensor(len(data_batch['inputs'])), 'sum'))

    @property
    def is_open(self) -> bool:
        return bool(self._windows)

    def opens_at(self, event: int) -> int:
        """The iterations done when the window of an event opens; ``event``: those done at it."""
        return event - -(-self._num_samples // self._batch_size)

    def open(self, runner, groups: Mapping[str, ChannelGroup]) -> None:
        averages = averaged_models_of(runner)
        self._windows = [
            ActivationWindow(model, groups, in_training_only=model not in averages)
            for model in (bare_model(runner), *averages)
        ]
        for window, saved in zip(self._windows, self._saved):
            window.restore(saved)
        self._saved = []

    def see(self, runner, data_batch: dict) -> None:
        """Before an iteration: count its samples, and show them to the averages."""
        self.samples += len(data_batch['inputs']) * runner.world_size
        for average in averaged_models_of(runner):
            inputs = example_inputs(average, data_batch, None)
            with observing(average):
                forward_tensors(average, inputs)

    def join(self, runner) -> None:
        """After an iteration: every rank knows what all have seen."""
        if runner.world_size > 1:
            for window in self._windows:
                window.join(reduced)

    def close(self) -> tuple[list[ActivationWindow], int]:
        """Stop watching; returns what the model and its averages saw, and of how many samples."""
        windows, samples = self._windows, self.samples
        self._windows, self.samples = [], 0
        for window in windows:
            window.close()
        return windows, samples


def peak_activations(
    windows: Sequence[ActivationWindow],
    probes: Sequence[ActivationWindow],
    logger: MMLogger,
    *,
    samples: int,
    positive: bool,
) -> dict[str, Tensor]:
    """The largest |activation| of each channel, :func:`joined_scores`, over the windows before an
    event and the probes at it.

    Args:
        windows: what the models saw in training, on ``samples`` samples.
        probes: what they see with the weights as they are now. Groups are those of the windows.
        positive: see :meth:`.ActivationWindow.scores`.
    """
    # A layer must have seen some samples before what it reads can be called dead: fewer than
    # all, for the branches of a net share these; more than one, on which half of all ReLUs may
    # be off.
    least_samples = -(-int(over_ranks(samples)) // 10)
    seen = joined_scores(windows, logger, least_samples=least_samples, positive=positive)
    now = joined_scores(probes, logger, positive=positive)
    return {name: torch.maximum(score, now[name]) for name, score in seen.items()}
