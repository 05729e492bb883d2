"""What a run has lost so far, and what it says of that."""

from collections.abc import Mapping

from mmengine.config import Config
from torch import Tensor, nn

from ...pruning.cost import Cost, model_cost
from ...pruning.graph import ChannelGroup
from ...pruning.lossless import NEVER_POSITIVE
from ...pruning.prune import Removal
from ..input_size import count_at_one_size
from ..ranks import of_rank_0
from .settings import PruneSettings


class Progress:
    """Prunable channels and MACs: at the run's start, and now.

    Attributes:
        positions: weight -> how often it is applied to one image (``count_positions``).
        counted_size: height and width of that image, which all counts are for.
    """

    def __init__(self):
        self.positions: dict[str, float] = {}
        self.counted_size: tuple[int, ...] = ()
        self._dense: dict[str, int] = {}
        self._removed = 0  # channels, in all events
        self._cost: Cost | None = None  # of the model as it is

    def state(self) -> dict:
        """What a resumed run must know, plain types."""
        return dict(
            dense=self._dense,
            removed=self._removed,
            positions=self.positions,
            counted_size=list(self.counted_size),
        )

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave, perhaps among other entries."""
        self._dense, self._removed = state['dense'], state['removed']
        self.positions, self.counted_size = state['positions'], tuple(state['counted_size'])

    @property
    def has_begun(self) -> bool:
        """Whether the start is known, in a resumed run from its checkpoint."""
        return bool(self._dense)

    @property
    def counted_at(self) -> str:
        return 'x'.join(map(str, self.counted_size))

    @property
    def left(self) -> dict[str, float]:
        """Fractions of the prunable ``channels`` and of the ``macs`` at the start."""
        return dict(
            channels=1 - self._removed / self._dense['channels'],
            macs=self._cost.macs / self._dense['macs'],
        )

    def count_on(self, model: nn.Module, cfg: Config, traced: Tensor) -> None:
        """Choose the image that MACs are counted on (see ``count_at_one_size``): one for all
        ranks, whose batches may differ in size, and for the whole run, resumed or not."""
        counted = of_rank_0(count_at_one_size(model, cfg, traced))
        if not self.positions:
            self.positions, self.counted_size = counted

    def begin(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
        """Count the model; that of a run which is not resumed is the one at the start."""
        self._cost = model_cost(model, self.positions)
        if not self.has_begun:
            channels = sum(group.channels for group in groups.values())
            self._dense = dict(channels=channels, macs=self._cost.macs)

    def log_event(
        self,
        runner,
        model: nn.Module,
        removal: Removal,
        *,
        removed_as: str,
        change: float | None,
        reconstructed: bool = False,
        seconds: float,
    ) -> None:
        """Count the model after an event, and say what the event did.

        Args:
            removed_as: what went, in words.
            change: of the outputs, relative to their maximum; None where nothing was lost.
            reconstructed: whether readers have taken over what they can.
        """
        removed = sum(removal.channels_removed.values())
        self._removed += removed
        before, self._cost = self._cost, model_cost(model, self.positions)
        left = self.left
        outputs = f'within {removal.relative_error:.1e}'
        if change is not None:
            masked = 'masked to 0 after reconstruction' if reconstructed else 'masked to 0'
            outputs = (
                f'changed by {change:.1e}, and are those with these channels {masked} {outputs}'
            )
        lines = [
            f'prune event at iteration {runner.iter + 1}: {removed} channels removed '
            f'({removed_as}), {left["channels"]:.1%} left; '
            f'params {before.params:,} -> {self._cost.params:,}; '
            f'MACs at {self.counted_at} {before.macs / 1e6:,.1f} M -> '
            f'{self._cost.macs / 1e6:,.1f} M ({left["macs"]:.1%} left); '
            f'outputs {outputs}; {seconds:.2f} s'
        ]
        lines += [
            f'  {name}: -{int((~keep).sum())}, {int(keep.sum())} left'
            for name, keep in removal.keep_masks.items()
        ]
        runner.logger.info('\n'.join(lines))
        runner.visualizer.add_scalar('demp/channels_removed', removed, runner.iter + 1)


def what_went(
    keep_masks: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    settings: PruneSettings,
    *,
    samples: int,
) -> str:
    """How many of the channels that went were dead on the samples, and what the others were."""
    dead = others = 0
    for name, keep_mask in keep_masks.items():
        are_dead = scores[name][~keep_mask] <= settings.eps
        dead += int(are_dead.sum())
        others += int((~are_dead).sum())
    called = 'never positive' if settings.criterion == NEVER_POSITIVE else 'dead'
    text = f'{dead or "none"} {called} on {samples} samples'
    if not others:
        return text
    if settings.criterion == 'collapsed':
        return f'{text}, {others} collapsed (|gamma| < {settings.gamma_threshold:g})'
    return f'{text}, {others} live'
