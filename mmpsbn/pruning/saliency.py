"""What the loss loses without a channel."""

from collections.abc import Callable, Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from .gates import Gates
from .graph import ChannelGroup

GATE_SCORES = ('snap', 'cropit')


class GateSaliency:
    """s = sum over steps of (dL/dm)^2, m = 1 being a gate on all of a channel (:class:`Gates`).

    s is the empirical Fisher information of removing the channel (Group Fisher Pruning, Liu et
    al., ICML 2021, eq. 4 to 8), of batches instead of samples. There is no other pass than
    training's own: with a gate on the output of a layer dL/dm = sum(w . dL/dw) + b . dL/db over the
    parameters that make that output.

    Gradients count as they are when they are added: at an optimizer's step they are accumulated,
    averaged over ranks, unscaled, and clipped, so that a step that was clipped counts for less.

    Attributes:
        seen: steps, with those that were not added.
        steps: that were added, as a tensor, for to read it would wait for the GPU.
        unknown: see :class:`Gates`.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        norm_of: Mapping[str, tuple[str, ...]],
    ):
        self._gates = Gates(model, groups, norm_of)
        self._sum = self._gates.zeros()
        self.seen = 0
        self.steps = torch.zeros((), dtype=torch.int64, device=self._sum.device)

    @property
    def unknown(self) -> set[str]:
        return self._gates.unknown

    def state(self) -> dict:
        """Plain types."""
        sums = {name: part.tolist() for name, part in self._gates.by_group(self._sum).items()}
        return dict(sums=sums, steps=int(self.steps), seen=self.seen)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave, perhaps of more groups."""
        for name, part in self._gates.by_group(self._sum).items():
            part.copy_(torch.tensor(state['sums'][name], dtype=part.dtype))
        self.steps.fill_(state['steps'])
        self.seen = state['seen']

    @torch.no_grad()
    def add(self, *, shifted: Container[nn.Parameter] = ()) -> None:
        """The gradients as they are. Where one of them is NaN or infinite nothing is added.

        Args:
            shifted: those of an optimizer whose step has begun, in which a psBN bias holds beta.
        """
        gates = self._gates.derivatives(lambda parameter: parameter.grad, shifted)
        finite = gates.isfinite().all()
        self._sum += gates.square().where(finite, 0)
        self.steps += finite
        self.seen += 1

    def scores(self) -> dict[str, Tensor]:
        """See :meth:`Gates.scores`."""
        return self._gates.scores(self._sum)


def gate_scores(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    norm_of: Mapping[str, tuple[str, ...]],
    losses: Iterable[Tensor],
    *,
    score: str,
    join: Callable[[Tensor], Tensor],
) -> tuple[dict[str, Tensor], int]:
    """|sum over batches of s|, of channels, to be compared over the whole model.

    ``'snap'``: s = dL/dm (SNAP, Verdenius et al., 2006.00896, whose division by the sum over all
    channels changes no order). ``'cropit'``: s = H g of the gates (CroPit-S and EarlyCroP-S,
    Rachwan et al., 2206.10451, as DemP's authors compute it: SimonDufLab/Maxwell_demon,
    ``early_crop_score`` in source/utils/scores.py; m being 1, m . H g is H g).

    Args:
        groups, norm_of: see :class:`Gates`.
        losses: one at a time, each a scalar with its graph.
        join: the sums over the ranks.

    Returns:
        See :meth:`Gates.scores`; and how many batches, of all ranks, count for nothing, since s is
        NaN or infinite for one of their channels.
    """
    gates = Gates(model, groups, norm_of)
    of_batch = {'snap': gates.slope, 'cropit': gates.flow}[score]
    total = gates.zeros()
    left_out = torch.zeros((), dtype=torch.int64, device=total.device)
    for loss in losses:
        found = of_batch(loss)
        finite = found.isfinite().all()
        total += found.where(finite, 0)
        left_out += ~finite
    return gates.scores(join(total).abs()), int(join(left_out))
