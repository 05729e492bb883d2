"""Which channels have not grown yet, of layers whose gamma began at 0."""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...functional.checks import short_repr
from ...upstream import resumes

# A channel has grown at so many times the threshold. A growing gamma passes through 0 again and
# again: at 1 up to 36 of 480 channels of a healthy small ResNet "collapsed" in that, at 10 up to 9.
_GROWN = 10

GROWTH_KEY = 'mmpsbn_not_grown'  # of a checkpoint's meta: what :meth:`Growth.state` gives

_of_runner: WeakKeyDictionary = WeakKeyDictionary()


def growth_of(runner) -> 'Growth':
    """The one course that all hooks of a run read and write."""
    return _of_runner.setdefault(runner, Growth())


def save_growth(runner, checkpoint: dict) -> None:
    """Into the checkpoint's meta, where there is a course."""
    state = growth_of(runner).state()
    if state:
        checkpoint['meta'][GROWTH_KEY] = state


def load_growth(runner, checkpoint: dict) -> None:
    """Out of it, in a run that goes on with another one."""
    if resumes(runner):
        growth_of(runner).restore((checkpoint.get('meta') or {}).get(GROWTH_KEY, {}))


class Growth:
    """The course of the layers that stood at zero when training began (see ``begins_at_zero``):
    a channel of theirs has not grown as long as no reading has found |gamma| at ten times the
    threshold or above. What has grown and falls below the threshold has collapsed, as anywhere
    else.

    Channels are numbered as in the unpruned model, so that it goes on where some are removed.
    """

    def __init__(self):
        self._peaks: dict[str, Tensor] = {}  # layer -> largest |gamma| of all readings
        self._last: dict[str, tuple[Tensor, Tensor]] = {}  # layer -> channels left, |gamma| now

    def begin(self, sizes: Mapping[str, int]) -> None:
        """Of a training that begins now: layer that stands at zero -> its channels in the unpruned
        model."""
        self._peaks = {name: torch.zeros(size) for name, size in sizes.items()}

    def update(self, gammas: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> None:
        """Take in a reading.

        Args:
            gammas: norm layer -> scales, shape (channels left,), on the CPU.
            kept: norm layer -> the channels of the unpruned model that are left, where some are
                gone.
        """
        self._last = {}
        for name, peak in list(self._peaks.items()):
            channels = kept.get(name, range(len(peak)))
            if name not in gammas or len(gammas[name]) != len(channels):  # by other hands
                del self._peaks[name]
                continue
            left, size = self._last[name] = torch.tensor(channels), gammas[name].abs()
            peak[left] = torch.maximum(peak[left], size)

    def not_grown(self, *, threshold: float) -> dict[str, Tensor]:
        """Layer that began at 0 -> which of its channels were below the threshold at the last
        reading and have not grown before, shape (channels left,), bool."""
        return {
            name: (size < threshold) & (self._peaks[name][left] < _GROWN * threshold)
            for name, (left, size) in self._last.items()
        }

    def state(self) -> dict[str, list[float]]:
        """What a resumed run must know, plain types."""
        return {name: peak.tolist() for name, peak in self._peaks.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Raises ValueError for what :meth:`state` cannot have given."""
        if not isinstance(state, Mapping):
            raise ValueError(
                f'the checkpoint cannot be read: its {GROWTH_KEY} must be a dict, got '
                f'{short_repr(state)}'
            )
        for name, peaks in state.items():
            if not (isinstance(peaks, list) and all(type(peak) is float for peak in peaks)):
                raise ValueError(
                    f'the checkpoint cannot be read: the course of {name} must be a list of '
                    f'floats, got {short_repr(peaks)}'
                )
        self._peaks = {name: torch.tensor(peaks) for name, peaks in state.items()}
