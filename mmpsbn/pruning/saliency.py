"""What the loss loses without a channel, told by gates on channels."""

from collections.abc import Callable, Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..layers import NORM_LAYERS, alpha_of
from ..upstream import NormBase
from .forward import is_conv_or_linear
from .graph import ChannelGroup

GATE_SCORES = ('snap', 'cropit')


class Gates:
    """Gates m = 1 on channels, as factors of the parameters that make them: theta -> m theta.

    They multiply the output of a layer through the parameters that make that output: gamma and b of
    a norm layer, of a convolution without one its filters and biases. A channel that several layers
    write, or that goes through a depthwise convolution, has one gate in all of them. A batch or
    group norm without a scale that trains (``requires_grad=False``, as in mmdet's configs of Caffe)
    gets a factor of 1 on its output, until :meth:`close`. Its derivative is neither clipped nor
    unscaled.

    Attributes:
        number: of gates: one for each channel of each group.
        unknown: groups of which nothing can be known, since what makes their channels is frozen.

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
        some = next(iter(parameters.values()))
        self._length = start = 0
        factors: dict[str, Tensor] = {}  # of norm layers that have no scale which trains
        for name, group in groups.items():
            through = {member.layer for member in group.channelwise}
            gates = len(source)
            for member in (*group.writers, *group.channelwise):
                own = [f'{member.layer}.{tensor}'.lstrip('.') for tensor, _ in member.slices]
                slices = [(parameters.get(n), dim) for n, (_, dim) in zip(own, member.slices)]
                slices = [(p, dim) for p, dim in slices if p is not None]  # or a buffer
                frozen = not all(p.requires_grad for p, _ in slices)
                norms = norm_of.get(member.layer, ())
                if norms and through.issuperset(norms):
                    if frozen and all(_is_fixed(model, norm) for norm in norms):
                        self.unknown.add(name)
                    continue
                if not _scales(model, member.layer):
                    continue
                if _is_fixed(model, member.layer):
                    if member.layer not in factors:
                        factors[member.layer] = some.new_ones(member.size, requires_grad=True)
                    slices = [(factors[member.layer], 0)]
                elif frozen:
                    self.unknown.add(name)
                for parameter, dim in slices:
                    if (parameter, dim) not in self._summed:
                        self._summed[parameter, dim] = self._length
                        self._length += parameter.shape[dim]
                    begin = self._summed[parameter, dim]
                    source += [begin + index for index in member.index]
                    target += [start + channel for channel in member.channel]
            if len(source) == gates:
                self.unknown.add(name)
            start += group.channels
        known = {m.layer for n, g in groups.items() if n not in self.unknown for m in g.channelwise}
        self._factors = [factor for layer, factor in factors.items() if layer in known]
        self._trainable += self._factors
        self._hooks = [
            model.get_submodule(layer).register_forward_hook(_times(factor))
            for layer, factor in factors.items()
            if layer in known
        ]
        self._source = torch.tensor(source, dtype=torch.int64, device=some.device)
        self._target = torch.tensor(target, dtype=torch.int64, device=some.device)
        self._like = some.new_empty(0, dtype=torch.promote_types(some.dtype, torch.float32))
        self.number = start

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def average(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Those gradients that DDP does not know, over the ranks, which call it together."""
        if not self._factors:
            return
        # a rank may have sent nothing through a layer
        own = [torch.zeros_like(f) if f.grad is None else f.grad for f in self._factors]
        averaged = mean(torch.cat(own)).split([len(factor) for factor in self._factors])
        for factor, gradient in zip(self._factors, averaged):
            factor.grad = gradient

    def forget(self) -> None:
        """The gradients that no optimizer sets to 0."""
        for factor in self._factors:
            factor.grad = None

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


def _is_fixed(model: nn.Module, layer: str) -> bool:
    """Whether it is a norm layer of (N, C, ...) that has no parameter which trains."""
    norm = model.get_submodule(layer)
    return isinstance(norm, (NormBase, nn.GroupNorm)) and not any(
        p.requires_grad for p in norm.parameters()
    )


def _times(factor: Tensor) -> Callable:
    def multiply(norm, args, output):
        if not torch.is_grad_enabled():  # a tracer would see a tensor of fixed size
            return None
        # the gradient of a factor is a sum, of scaled losses too: more than half precision holds
        shape = (-1, *[1] * (output.dim() - 2))
        return (output.to(factor.dtype) * factor.view(shape)).to(output.dtype)

    return multiply


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
    def add(
        self,
        *,
        shifted: Container[nn.Parameter] = (),
        mean: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> None:
        """The gradients as they are. Where one of them is NaN or infinite nothing is added.

        Args:
            shifted: those of an optimizer whose step has begun, in which a psBN bias holds beta.
            mean: over the ranks.
        """
        self._gates.average(mean)
        gates = self._gates.derivatives(lambda parameter: parameter.grad, shifted)
        finite = gates.isfinite().all()
        self._sum += gates.square().where(finite, 0)
        self.steps += finite
        self.seen += 1

    def forget(self) -> None:
        """See :meth:`Gates.forget`; after each step, added or not."""
        self._gates.forget()

    def close(self) -> None:
        """Leave the model as it was; the sums stay."""
        self._gates.close()

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
    try:
        for loss in losses:
            found = of_batch(loss)
            finite = found.isfinite().all()
            total += found.where(finite, 0)
            left_out += ~finite
    finally:
        gates.close()
    return gates.scores(join(total).abs()), int(join(left_out))
