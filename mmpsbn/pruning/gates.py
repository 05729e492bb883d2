"""Gates on channels, and what the loss has to say of them."""

from collections.abc import Callable, Container, Mapping

import torch
from torch import Tensor, nn

from ..layers import NORM_LAYERS, alpha_of
from .forward import is_conv_or_linear
from .graph import ChannelGroup


class Gates:
    """Gates m = 1 on channels, as factors of the parameters that make them: theta -> m theta.

    They multiply the output of a layer through the parameters that make that output: gamma and b of
    a norm layer, of a convolution without one its filters and biases. A channel that several layers
    write, or that goes through a depthwise convolution, has one gate in all of them.

    Attributes:
        number: of gates: one for each channel of each group.
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
        self._trainable = [p for p in dict.fromkeys(parameters.values()) if p.requires_grad]
        self._length = start = 0
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
                        self._summed[parameter, dim] = self._length
                        self._length += parameter.shape[dim]
                    begin = self._summed[parameter, dim]
                    source += [begin + index for index in member.index]
                    target += [start + channel for channel in member.channel]
            if len(source) == gates:
                self.unknown.add(name)
            start += group.channels
        some = next(iter(parameters.values()))
        self._source = torch.tensor(source, dtype=torch.int64, device=some.device)
        self._target = torch.tensor(target, dtype=torch.int64, device=some.device)
        self._like = some.new_empty(0, dtype=torch.promote_types(some.dtype, torch.float32))
        self.number = start

    def zeros(self) -> Tensor:
        """Shape (number,)."""
        return self._like.new_zeros(self.number)

    def derivatives(
        self, gradient: Callable[[nn.Parameter], Tensor | None], shifted: Container = ()
    ) -> Tensor:
        """sum theta . g over the parameters theta of each gate, shape (number,).

        Args:
            gradient: of a parameter; None counts as 0.
            shifted: parameters that hold beta = b - alpha now (layers/optimizer_view.py).
        """
        sums = []
        for parameter, dim in self._summed:
            of_it = gradient(parameter)
            if of_it is None:
                sums.append(parameter.new_zeros(parameter.shape[dim]))
                continue
            value = parameter
            if parameter in shifted:
                value = parameter + (alpha_of(parameter) or 0)
            product = value * of_it
            others = [d for d in range(product.dim()) if d != dim]
            sums.append(product.sum(others) if others else product)
        if not sums:
            return self.zeros()
        found = torch.cat(sums).to(self._like.dtype)
        return self.zeros().index_add(0, self._target, found[self._source])

    def slope(self, loss: Tensor) -> Tensor:
        """dL/dm, shape (number,). The gradients that parameters have stay."""
        held = [parameter.grad for parameter in self._trainable]
        try:
            for parameter in self._trainable:
                parameter.grad = None
            # autograd.grad does not go through reentrant checkpoints, and passes by what tells that
            # an operation has no second derivative
            loss.backward()
            with torch.no_grad():
                return self.derivatives(lambda parameter: parameter.grad)
        finally:
            for parameter, gradient in zip(self._trainable, held):
                parameter.grad = gradient

    def flow(self, loss: Tensor) -> Tensor:
        """H g, shape (number,), where g = dL/dm and H = d2L/dm2 are of the gates: half of what
        |g|^2, the flow of the gradient, changes by with each gate.

        Raises:
            RuntimeError: an operation has no second derivative, or is in a reentrant checkpoint.
        """
        # Of all parameters: a reentrant checkpoint raises only where what is before it is asked
        # for, and else gives those within it no gradient without a word.
        gradients = torch.autograd.grad(loss, self._trainable, allow_unused=True, create_graph=True)
        by_parameter = dict(zip(self._trainable, gradients))
        with torch.no_grad():
            moved = self._moved(self.derivatives(by_parameter.get))
        along = sum(
            (by_parameter[parameter] * direction).sum()
            for parameter, direction in moved.items()
            if by_parameter.get(parameter) is not None
        )
        return self.slope(along)

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Views of shape (channels,)."""
        return dict(zip(self._channels, values.split(list(self._channels.values()))))

    def scores(self, values: Tensor) -> dict[str, Tensor]:
        """By group, shape (channels,), float64, on the CPU, higher = kept; infinity for a group of
        which nothing is known: one that is ``unknown``, or in a branch that no sample reached."""
        scores = {
            name: part.to('cpu', torch.float64, copy=True)
            for name, part in self.by_group(values).items()
        }
        for name, score in scores.items():
            if name in self.unknown or not score.any():
                score.fill_(torch.inf)
        return scores

    def _moved(self, values: Tensor) -> dict[nn.Parameter, Tensor]:
        """What the parameters change by when the gates change by ``values``."""
        factors = self._like.new_zeros(self._length)
        factors.index_add_(0, self._source, values[self._target])
        moved: dict[nn.Parameter, Tensor] = {}
        for (parameter, dim), begin in self._summed.items():
            shape = [-1 if d == dim else 1 for d in range(parameter.dim())]
            factor = factors[begin : begin + parameter.shape[dim]].view(shape)
            moved[parameter] = moved.get(parameter, 0) + parameter * factor.to(parameter.dtype)
        return moved


def _scales(model: nn.Module, layer: str) -> bool:
    """Whether all parameters of a layer scale its output: not so in a PReLU."""
    module = model.get_submodule(layer)
    return is_conv_or_linear(module) or isinstance(module, NORM_LAYERS)
