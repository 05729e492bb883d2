"""One verified pruning step: select, cut, compare, and undo if anything differs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .folding import fold_constants
from .forward import ForwardFn
from .graph import ChannelGroup
from .plan import PrunePlan, plan_from_keep_masks
from .surgery import apply_plan
from .verification import VerificationError, output_errors, probe_outputs


@dataclass(frozen=True)
class Removal:
    """What a verified removal did.

    Attributes:
        plan: the slices that were kept; empty if nothing was removed.
        channels_removed: group name -> number of channels.
        max_abs_error, relative_error: of the outputs on the probe batch, after against
            before, as it is and over the largest |output| of its tensor.
    """

    plan: PrunePlan
    channels_removed: dict[str, int]
    max_abs_error: float
    relative_error: float


def prune_channels(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    *,
    batch: Any,
    forward_fn: ForwardFn,
    optimizers: Iterable[Optimizer] = (),
    tolerance: float,
    constants: Mapping[str, Tensor] | None = None,
    norm_of: Mapping[str, tuple[str, ...]] | None = None,
    outputs_before: list[Tensor] | None = None,
    agree: Callable[[float], float] = float,
) -> Removal:
    """Remove channels in place and check that the outputs stay what they were.

    Args:
        model: not wrapped in DDP.
        groups: traced from ``model`` as it is now.
        keep_masks: group name -> shape (channels,), bool, True = keep.
        batch: the probe, passed to ``forward_fn(model, batch)``.
        optimizers: those that hold the model's parameters.
        tolerance: largest relative error of the outputs that passes for rounding.
        constants: reader -> the value to fold at each position of its input (see
            ``fold_constants``); None where all that goes is 0.
        norm_of: of the graph; needed with ``constants``.
        outputs_before: what ``probe_outputs`` gives on the batch, if the caller has it.
        agree: makes an error measured here the one all ranks act on (their maximum).

    Raises:
        VerificationError: the outputs differ; names the groups at fault. Model and
            optimizers are as before, bit for bit.
        ValueError: a mask that does not fit its group. Nothing changed.
    """
    optimizers = list(optimizers)
    plan = plan_from_keep_masks(model, groups, keep_masks)
    if not plan:
        return Removal(plan, {}, 0.0, 0.0)
    before = outputs_before or probe_outputs(model, batch, forward_fn)

    def cut(masks: Mapping[str, Tensor], trial: PrunePlan) -> Callable[[], None]:
        unfold = None
        if constants is not None:
            unfold = fold_constants(model, groups, masks, constants, norm_of)
        try:
            uncut = apply_plan(model, trial, optimizers)
        except BaseException:
            if unfold is not None:
                unfold()
            raise

        def restore() -> None:
            uncut()
            if unfold is not None:
                unfold()

        return restore

    def error_of(masks: Mapping[str, Tensor], trial: PrunePlan, keep: bool) -> tuple[float, float]:
        restore = cut(masks, trial)
        errors = float('inf'), float('inf')
        try:
            errors = output_errors(before, probe_outputs(model, batch, forward_fn))
        except Exception:  # the shapes no longer fit each other: as wrong as can be
            pass
        finally:
            errors = errors[0], agree(errors[1])
            if not keep or errors[1] > tolerance:
                restore()
        return errors

    absolute, relative = error_of(keep_masks, plan, keep=True)
    if relative > tolerance:
        at_fault = _groups_at_fault(model, groups, keep_masks, error_of, tolerance)
        raise VerificationError(
            f'removing {at_fault or list(keep_masks)} changes the outputs by {relative:.1e} '
            f'relative to their maximum (tolerance {tolerance:.1e}); the surgery was undone',
            at_fault,
        )
    removed = {name: int((~keep).sum()) for name, keep in keep_masks.items() if not keep.all()}
    return Removal(plan, removed, absolute, relative)


def _groups_at_fault(model, groups, keep_masks, error_of, tolerance) -> list[str]:
    """Groups whose removal alone is wrong; none if they are only so together."""
    trials = {}
    for name, keep_mask in keep_masks.items():
        trial = plan_from_keep_masks(model, groups, {name: keep_mask})
        if trial:
            _, trials[name] = error_of({name: keep_mask}, trial, keep=False)
    return [name for name, error in trials.items() if error > tolerance]
