"""One verified pruning step: cut, compare, and undo if anything differs.

All surgery on models goes through here, of the API, of tools and of MMEngine's hook:
:func:`prune_what_holds` where nothing may be lost, :func:`prune_channels` for a given choice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .folding import fold_constants
from .forward import ForwardFn
from .graph import ChannelGroup
from .lossless import keep_mask_of
from .plan import PrunePlan, plan_from_keep_masks
from .repeated_sizes import repeated_sizes
from .surgery import apply_plan
from .verification import (
    Choices,
    VerificationError,
    masked_outputs,
    output_errors,
    probe_outputs,
)


@dataclass(frozen=True)
class Removal:
    """What a verified removal did.

    Attributes:
        plan: the slices that were kept; empty if nothing was removed.
        keep_masks: group name -> shape (channels,), bool, True = kept; of those that lost channels.
        max_abs_error, relative_error: of the outputs on the probe batch, after against
            before, as it is and over the largest |output| of its tensor.
        sizes_followed: attribute of a module around layers that repeated a width
            (``'stage1.0.in_channels'``) -> that width before and after.
        sizes_left: the same, of those that repeated a width which several layers within have
            and that is now another in each, of lists (``'neck.in_channels[1]'``) and of names that
            do not say of what they are a width (``'head.hidden_size'``) -> the widths by layer.
            They say what was; what builds layers from them later builds the old width.
    """

    plan: PrunePlan
    keep_masks: dict[str, Tensor]
    max_abs_error: float
    relative_error: float
    sizes_followed: dict[str, tuple[int, int]]
    sizes_left: dict[str, dict[str, int]]

    @property
    def channels_removed(self) -> dict[str, int]:
        """Group name -> number of channels."""
        return {name: int((~keep).sum()) for name, keep in self.keep_masks.items()}

    @classmethod
    def of_nothing(cls) -> 'Removal':
        """Where no channel goes."""
        return cls(PrunePlan({}, {}), {}, 0.0, 0.0, {}, {})


def prune_channels(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    *,
    batch: Any,
    forward_fn: ForwardFn,
    tolerance: float,
    optimizers: Iterable[Optimizer] = (),
    averages: Sequence[nn.Module] = (),
    constants: Sequence[Mapping[str, Tensor]] = (),
    norm_of: Mapping[str, tuple[str, ...]] | None = None,
    live: bool = False,
    agree: Callable[[float], float] = float,
) -> Removal:
    """Remove channels in place and check that the outputs stay what they were.

    Args:
        model: not wrapped in DDP.
        groups: traced from ``model`` as it is now.
        keep_masks: group name -> shape (channels,), bool, True = keep.
        batch: the probe, passed to ``forward_fn(model, batch)``.
        tolerance: largest relative error of the outputs that passes for rounding.
        optimizers: those that hold the model's parameters.
        averages: of the model; they lose the same channels and are verified alike.
        constants: of the model and each average, reader -> the value to fold at each position of
            its input (see ``fold_constants``); empty where all that goes is 0.
        norm_of: of the graph; needed with ``constants``.
        live: what goes may be alive: the outputs must be those of a model whose readers see 0
            of it.
        agree: makes an error measured here the one all ranks act on (their maximum).

    Returns:
        What was done; the errors are those of the model that changed most.

    Raises:
        VerificationError: the outputs differ; names the groups at fault. Models and
            optimizers are as before, bit for bit.
        ValueError: a mask that does not fit its group. Nothing changed.
    """
    return _Surgery(
        [model, *averages],
        groups,
        batch=batch,
        forward_fn=forward_fn,
        tolerance=tolerance,
        optimizers=list(optimizers),
        constants=constants,
        norm_of=norm_of,
        live=live,
        agree=agree,
    ).perform(keep_masks)


def prune_what_holds(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    *,
    scores: Mapping[str, Tensor],
    min_channels: int,
    round_to: int,
    optimizers: Iterable[Optimizer] = (),
    **how,
) -> tuple[Removal, dict[str, str]]:
    """:func:`prune_channels`, where what fails verification stays.

    A group at fault loses those of its channels that were exactly 0, and if that fails as well
    it is left whole.

    Args:
        scores: group name -> max |activation| of each channel, shape (channels,).
        min_channels, round_to: of :func:`keep_mask_of`.
        how: the other arguments of :func:`prune_channels`.

    Returns:
        What was done, and why it was not all: group name -> the reason.

    Raises:
        VerificationError: the outputs differ with exact zeros alone, and no group is at fault
            by itself.
    """
    masks, refused, optimizers = dict(keep_masks), {}, list(optimizers)

    def exact(name: str) -> Tensor:
        zero = (scores[name] == 0) & ~keep_masks[name]
        rounding = dict(min_channels=min_channels, round_to=round_to)
        return keep_mask_of(groups[name], scores[name], zero, **rounding)

    while True:
        try:
            return prune_channels(model, groups, masks, optimizers=optimizers, **how), refused
        except VerificationError as error:
            # Groups that are wrong only together are all at fault, but for those of which nothing
            # but zeros goes: these change nothing.
            at_fault = error.groups or [n for n in masks if not torch.equal(masks[n], exact(n))]
            if not at_fault:
                raise
            for name in at_fault:
                refused.setdefault(name, str(error))
                if torch.equal(masks[name], exact(name)):  # it was tried with exact zeros alone
                    del masks[name]
                else:
                    masks[name] = exact(name)


@dataclass
class _Surgery:
    """Tries removals on models that go together. Fields are arguments of :func:`prune_channels`,
    but for the last three."""

    models: Sequence[nn.Module]
    groups: Mapping[str, ChannelGroup]
    batch: Any
    forward_fn: ForwardFn
    tolerance: float
    optimizers: list[Optimizer]
    constants: Sequence[Mapping[str, Tensor]]
    norm_of: Mapping[str, tuple[str, ...]] | None
    live: bool
    agree: Callable[[float], float]
    before: list[list[Tensor]] = field(default_factory=list)  # what each model must give after
    choices: list[Choices] = field(default_factory=list)  # that each made of it
    failure: Exception | None = None  # of the last forward pass that could not be made

    def perform(self, keep_masks: Mapping[str, Tensor]) -> Removal:
        plan = plan_from_keep_masks(self.models[0], self.groups, keep_masks)
        if not plan:
            return Removal.of_nothing()
        repeated = repeated_sizes(self.models[0], plan)  # as it is before the cut
        self._expect(keep_masks)
        absolute, relative = self._try(keep_masks, keep=True)
        if relative > self.tolerance:
            cause = self.failure  # the search for those at fault makes further passes
            at_fault = self._at_fault(list(keep_masks), keep_masks)
            raise VerificationError(
                f'removing {at_fault or list(keep_masks)} changes the outputs by {relative:.1e} '
                f'relative to their maximum{self._why(cause)} (tolerance {self.tolerance:.1e}); '
                'the surgery was undone',
                at_fault,
            ) from cause
        return Removal(
            plan,
            {name: keep for name, keep in keep_masks.items() if not keep.all()},
            absolute,
            relative,
            {s.name: (s.before, s.follows) for s in repeated if s.follows is not None},
            {s.name: s.after for s in repeated if s.follows is None},
        )

    def _expect(self, keep_masks: Mapping[str, Tensor]) -> None:
        """Note what each model must give without what is not kept."""
        self.before, self.choices = [], [Choices() for _ in self.models]
        for model, choices in zip(self.models, self.choices):
            forward_fn = choices.of(self.forward_fn)
            self.before.append(
                masked_outputs(model, self.groups, keep_masks, self.batch, forward_fn)
                if self.live
                else probe_outputs(model, self.batch, forward_fn)
            )

    def _why(self, cause: Exception | None) -> str:
        if cause is not None:
            return f' ({type(cause).__name__}: {cause})'
        chosen = self.choices[0].others
        return (
            f' (but {", ".join(sorted(chosen))} choose or order them, so that a rounding error may '
            'come out as another choice: give a forward_fn that returns what goes into these)'
            if chosen
            else ''
        )

    def _cut(self, keep_masks: Mapping[str, Tensor]) -> Callable[[], None]:
        """Cut all models; returns the way back."""
        plan = plan_from_keep_masks(self.models[0], self.groups, keep_masks)
        with ExitStack() as undo:  # an interrupt, say, unwinds it: nothing is ever half pruned
            # folded while the weights to fold with are still there
            for model, values in zip(self.models, self.constants):
                undo.callback(fold_constants(model, self.groups, keep_masks, values, self.norm_of))
            for model in self.models:
                # an average has no optimizer: its tensors are in the state of none
                undo.callback(apply_plan(model, plan, self.optimizers))
            return undo.pop_all().close

    def _try(self, keep_masks: Mapping[str, Tensor], *, keep: bool) -> tuple[float, float]:
        """The errors of the worst model; unless they pass and ``keep``, all is undone."""
        restore = self._cut(keep_masks)
        # infinite until measured: where it raises, the ranks still meet in agree()
        errors, self.failure = (float('inf'), float('inf')), None
        try:
            found = [
                output_errors(
                    before,
                    probe_outputs(model, self.batch, Choices(choices).of(self.forward_fn)),
                )
                for model, before, choices in zip(self.models, self.before, self.choices)
            ]
            errors = tuple(map(max, zip(*found)))
        except Exception as failure:  # the shapes no longer fit each other: as wrong as can be
            self.failure = failure
        finally:
            errors = errors[0], self.agree(errors[1])
            if not keep or errors[1] > self.tolerance:
                restore()
        return errors

    def _at_fault(self, names: list[str], keep_masks: Mapping[str, Tensor]) -> list[str]:
        """Groups whose removal alone is wrong, found by halving; none if they are only so
        together."""
        masks = {n: keep_masks[n] for n in names if not keep_masks[n].all()}
        if not masks:
            return []
        if len(masks) < len(keep_masks):  # of all of them it is known
            if self.live:  # what is expected is the model masked by what goes this time
                self._expect(masks)
            if self._try(masks, keep=False)[1] <= self.tolerance:
                return []
        if len(masks) == 1:
            return list(masks)
        names = list(masks)
        middle = len(names) // 2
        return [
            *self._at_fault(names[:middle], keep_masks),
            *self._at_fault(names[middle:], keep_masks),
        ]
