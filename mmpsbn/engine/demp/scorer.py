"""The scores by which a budget's channels are chosen."""

from collections.abc import Container, Mapping

from torch import Tensor, nn

from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.prune import Removal
from ...pruning.ranking import fisher_scores, rank_channels
from ...pruning.saliency import GATE_SCORES, GateSaliency
from ..ranks import of_rank_0, reduced
from .score_passes import scores_of_passes, try_score


class ChannelScorer:
    """Scores of channels: 'fisher' sums gradients between two cuts (:class:`.GateSaliency`), those
    of GATE_SCORES take passes of their own at a cut, and the rest read the weights.

    Args:
        score: of :class:`.BudgetSettings`.
    """

    def __init__(self, score: str):
        self._score = score
        self._saliency: GateSaliency | None = None  # since the last cut
        self._saved: Mapping | None = None  # of a resumed run, until it is watched again

    @property
    def takes_passes(self) -> bool:
        return self._score in GATE_SCORES

    @property
    def _by_gradients(self) -> bool:
        return self._score == 'fisher'

    @property
    def is_open(self) -> bool:
        """Whether what comes before a cut is being watched."""
        return self._saliency is not None

    def state(self) -> dict:
        """Plain types."""
        sums = self._saved if self._saliency is None else self._saliency.state()
        return dict(score=self._score, sums=sums)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave; by another score what was summed tells nothing."""
        self._saved = state['sums'] if state['score'] == self._score else None

    def known(
        self, model: nn.Module, graph: ChannelGraph, groups: Mapping[str, ChannelGroup]
    ) -> dict[str, ChannelGroup]:
        """Those groups of which something can be told."""
        if not groups or not (self._by_gradients or self.takes_passes):
            return dict(groups)
        saliency = GateSaliency(model, groups, graph.norm_of)
        saliency.close()
        return {name: group for name, group in groups.items() if name not in saliency.unknown}

    def try_once(
        self, runner, model: nn.Module, graph: ChannelGraph, groups: Mapping[str, ChannelGroup]
    ) -> None:
        """Raises RuntimeError where passes of its own cannot be taken; a cut may be hours away."""
        if self.takes_passes and groups:
            try_score(runner, model, graph, groups, self._score)

    def open(
        self, model: nn.Module, graph: ChannelGraph, groups: Mapping[str, ChannelGroup]
    ) -> None:
        """Watch from now on, unless it does."""
        if self._saliency is None:
            watched = groups if self._by_gradients else {}
            self._saliency = GateSaliency(model, watched, graph.norm_of)
            if self._saved is not None:
                self._saliency.restore(self._saved)
                self._saved = None

    def add(self, shifted: Container[nn.Parameter]) -> None:
        """The gradients of an optimizer step, see :meth:`.GateSaliency.add`."""
        if self._saliency is not None and self._by_gradients:
            self._saliency.add(shifted=shifted, mean=lambda own: reduced(own, 'mean'))

    def forget(self) -> None:
        """What gates have gathered for a step that is over, taken or skipped."""
        if self._saliency is not None:
            self._saliency.forget()

    def close(self) -> None:
        if self._saliency is not None:
            self._saliency.close()
        self._saliency = None

    def scores(
        self,
        runner,
        model: nn.Module,
        graph: ChannelGraph,
        groups: Mapping[str, ChannelGroup],
        draw: int = 0,
    ) -> dict[str, Tensor]:
        """Of those groups of which something is known, the same on all ranks, which call it
        together. Ends the watch.

        Args:
            draw: number of those at this iteration, where it takes passes.
        """
        saliency = self._saliency
        self.close()
        if self.takes_passes:
            scores = scores_of_passes(runner, model, graph, groups, self._score, draw)
            found = 0, scores
        elif self._by_gradients:
            found = int(saliency.steps), saliency.scores()
        else:
            seed = runner.seed + runner.iter
            found = 0, rank_channels(model, groups, criterion=self._score, seed=seed)
        steps, scores = of_rank_0(found)
        if self._by_gradients and steps < saliency.seen:
            runner.logger.warning(
                f'{saliency.seen - steps} of {saliency.seen} optimizer steps had gradients that '
                'are NaN or infinite, and count for nothing in the choice of channels'
            )
        return {
            name: score
            for name, score in scores.items()
            if name in groups and score.isfinite().any()
        }

    def ranked(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """To be compared over all groups."""
        return fisher_scores(scores) if self._by_gradients else scores

    def words(self, removal: Removal, scores: Mapping[str, Tensor]) -> str:
        """As what channels went: how many the loss misses nothing of, and how much it is to miss of
        the others."""
        if not self._by_gradients:
            return f'chosen by {self._score}'
        dead = alive = 0
        gone, total = 0.0, sum(float(score.sum()) for score in scores.values())
        for name, keep_mask in removal.keep_masks.items():
            score = scores[name][~keep_mask]
            dead += int((score == 0).sum())
            alive += int((score > 0).sum())
            gone += float(score.sum())
        share = gone / total if total else 0.0
        return (
            f'{dead or "none"} dead and {alive or "none"} alive, with {share:.1%} of the saliency'
        )
