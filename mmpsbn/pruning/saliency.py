"""What the loss loses without a channel, read off the gradients that training has anyway."""

from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from ..layers import alpha_of
from ..upstream import NormBase
from .forward import is_conv_or_linear
from .graph import ChannelGroup

_NORMS = (NormBase, nn.GroupNorm, nn.LayerNorm)


class GateSaliency:
    """s = sum over steps of (dL/dm)^2, m = 1 being a gate on all of a channel.

    With a gate on the output of a layer, dL/dm = sum(w . dL/dw) + b . dL/db over the parameters
    that make that output: of a norm layer gamma . dL/dgamma + b . dL/db, of a convolution without
    one its filter's. A channel that several layers write, or that goes through a depthwise
    convolution, has its gates in all of them, which are added before the square: then s is the
    empirical Fisher information of removing it (Group Fisher Pruning, Liu et al., ICML 2021,
    eq. 4 to 8), of batches instead of samples. There is no other pass than training's own.

    Gradients count as they are when they are added: at an optimizer's step they are accumulated,
    averaged over ranks, unscaled, and clipped, so that a step that was clipped counts for less.

    Attributes:
        seen: steps, with those that were not added.
        steps: that were added, as a tensor, for to read it would wait for the GPU.
        unknown: groups of which nothing can be known: a gate of theirs is frozen, or a layer that
            normalises them has no scale.

    Args:
        groups: of the model's graph.
        norm_of: of the model's graph. The filters of a normalised layer have no gate of their own,
            since their scale has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        norm_of: Mapping[str, tuple[str, ...]],
    ):
        self._channels = {name: group.channels for name, group in groups.items()}
        # What is summed: a parameter along all dimensions but one. Once each, though a layer that
        # is called several times has several members.
        self._summed: dict[tuple[nn.Parameter, int], int] = {}  # -> where it begins among all
        self.unknown: set[str] = set()
        source, target = [], []
        parameters = dict(model.named_parameters(remove_duplicate=False))
        length = start = 0
        for name, group in groups.items():
            through = {member.layer for member in group.channelwise}
            gates = len(source)
            for member in (*group.writers, *group.channelwise):
                norms = norm_of.get(member.layer, ())
                if norms and through.issuperset(norms) or not _scales(model, member.layer):
                    continue
                for tensor, dim in member.slices:
                    parameter = parameters.get(f'{member.layer}.{tensor}'.lstrip('.'))
                    if parameter is None:  # a buffer
                        continue
                    if not parameter.requires_grad:
                        self.unknown.add(name)
                    if (parameter, dim) not in self._summed:
                        self._summed[parameter, dim] = length
                        length += parameter.shape[dim]
                    begin = self._summed[parameter, dim]
                    source += [begin + index for index in member.index]
                    target += [start + channel for channel in member.channel]
            if len(source) == gates:
                self.unknown.add(name)
            start += group.channels
        some = next(iter(parameters.values()))
        device = some.device
        self._source = torch.tensor(source, dtype=torch.int64, device=device)
        self._target = torch.tensor(target, dtype=torch.int64, device=device)
        self._sum = torch.zeros(
            start, device=device, dtype=torch.promote_types(some.dtype, torch.float32)
        )
        self.seen = 0
        self.steps = torch.zeros((), dtype=torch.int64, device=device)

    def state(self) -> dict:
        """Plain types."""
        sums = {name: part.tolist() for name, part in self._by_group().items()}
        return dict(sums=sums, steps=int(self.steps), seen=self.seen)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave, perhaps of more groups."""
        for name, part in self._by_group().items():
            part.copy_(torch.tensor(state['sums'][name], dtype=part.dtype))
        self.steps.fill_(state['steps'])
        self.seen = state['seen']

    @torch.no_grad()
    def add(self, *, shifted: Container[nn.Parameter] = ()) -> None:
        """The gradients as they are. Where one of them is NaN or infinite nothing is added.

        Args:
            shifted: those of an optimizer whose step has begun, in which a psBN bias holds beta.
        """
        sums = []
        for parameter, dim in self._summed:
            if parameter.grad is None:
                sums.append(parameter.new_zeros(parameter.shape[dim]))
                continue
            value = parameter
            if parameter in shifted:  # it is b - alpha there (layers/optimizer_view.py)
                value = parameter + (alpha_of(parameter) or 0)
            product = value * parameter.grad
            others = [d for d in range(product.dim()) if d != dim]
            sums.append(product.sum(others) if others else product)
        gates = torch.zeros_like(self._sum)
        if sums:
            found = torch.cat(sums).to(gates.dtype)
            gates.index_add_(0, self._target, found[self._source])
        finite = gates.isfinite().all()
        self._sum += gates.square().where(finite, 0)
        self.steps += finite
        self.seen += 1

    def scores(self) -> dict[str, Tensor]:
        """By group, shape (channels,), float64, on the CPU, higher = kept; infinity for a group of
        which nothing is known: one that is ``unknown``, or in a branch that no sample reached."""
        scores = {
            name: part.to('cpu', torch.float64, copy=True)
            for name, part in self._by_group().items()
        }
        for name, score in scores.items():
            if name in self.unknown or not score.any():
                score.fill_(torch.inf)
        return scores

    def _by_group(self) -> dict[str, Tensor]:
        """Views of the sums."""
        return dict(zip(self._channels, self._sum.split(list(self._channels.values()))))


def _scales(model: nn.Module, layer: str) -> bool:
    """Whether all parameters of a layer scale its output: not so in a PReLU."""
    module = model.get_submodule(layer)
    return is_conv_or_linear(module) or isinstance(module, _NORMS)
