"""What SparsityHook will be able to see in a run, said before it starts."""

import copy
import math
import warnings
from typing import NamedTuple

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor

from ...functional.forecast import decay_settings, log_decay, steps_to_decay
from ...pruning.sparsity import scale_layers
from ...upstream import accumulative_counts
from ..runner_parts import bare_model, schedulers_of, wrappers_of


class _Gammas(NamedTuple):
    """The trained gammas that an optimizer gives the same settings."""

    wrapper: OptimWrapper
    group: dict
    gammas: list[Tensor]

    @property
    def count(self) -> int:
        return sum(gamma.numel() for gamma in self.gammas)

    @property
    def decay(self) -> float:
        return self.group.get('weight_decay', 0)


def collapse_forecast(runner, *, threshold: float) -> str:
    """One sentence: when a filter that dies now falls below ``threshold`` by weight decay.

    Of the trained gammas with weight decay, the largest part with the same settings is
    forecast; what DemPHook's penalty adds is not in it. |gamma| starts from their median,
    leaving out those below the threshold.
    """
    for wrapper in wrappers_of(runner):
        if not isinstance(wrapper, OptimWrapper):
            return f'forecast: none under {type(wrapper).__name__}'
    if runner.iter >= runner.max_iters:
        return 'forecast: no step is left in this run'
    parts = _trained_gammas(runner)
    if not parts:
        return 'forecast: no gamma is trained, so no filter can newly collapse'
    unseen = f'|gamma| < {threshold:g} cannot see filters that die in this run'
    part = _largest(parts)
    if not part.decay:
        return f'forecast: no weight decay on gamma, so a dead filter keeps its gamma: {unseen}'
    name = type(part.wrapper.optimizer).__name__
    settings = decay_settings(part.wrapper.optimizer, part.group)
    if settings is None:
        return (
            f'forecast: none, as under {name} the gamma of a dead filter shrinks at a rate that '
            'depends on its past gradients; it is known for SGD, AdamW and the Decoupled optimizers'
        )
    gamma = _median_size(part.gammas, threshold)
    if gamma is None:
        return f'forecast: none, as every gamma is below {threshold:g} already or not finite'
    lrs = _scheduled_lrs(runner, part)
    if lrs is None:
        return 'forecast: none, as the learning rates to come are known only as training goes on'
    decay, momentum = settings
    if max(lrs) * decay > (1 - momentum**0.5) ** 2:
        return (
            f'forecast: none, as weight_decay={part.decay:g} is too strong for lr={max(lrs):g}: '
            'gamma oscillates or diverges'
        )
    total = sum(part.count for part in parts)
    without = sum(part.count for part in parts if not part.decay)
    return (
        f'forecast: under {name} with {"decoupled" if name != "SGD" else "L2"} '
        f'weight_decay={part.decay:g}, a filter that dies now at |gamma| = {gamma:.3g} '
        + _course(lrs, decay, momentum, gamma=gamma, threshold=threshold, unseen=unseen)
        + f' ({part.count} of {total} trained gammas, {without} without weight decay)'
    )


def _course(
    lrs: list[float], decay: float, momentum: float, *, gamma: float, threshold: float, unseen: str
) -> str:
    needed = math.log(gamma / threshold)
    steps = steps_to_decay(needed, lrs, weight_decay=decay, momentum=momentum)
    if steps is not None:
        return (
            f'counts as collapsed (|gamma| < {threshold:g}) after {steps:,} of {len(lrs):,} steps'
        )
    reached = log_decay(lrs, weight_decay=decay, momentum=momentum)
    return (
        f'keeps {math.exp(-reached):.3g} of it over {len(lrs):,} steps (log decay {reached:.3g}, '
        f'needed {needed:.3g}): {unseen}, activations can'
    )


def _trained_gammas(runner) -> list[_Gammas]:
    """Param groups of equal settings as one."""
    layers = scale_layers(bare_model(runner)).values()
    gammas = {layer.weight for layer in layers if layer.weight.requires_grad}
    parts: dict = {}
    for wrapper in wrappers_of(runner):
        for group in wrapper.optimizer.param_groups if isinstance(wrapper, OptimWrapper) else ():
            found = [p for p in group['params'] if p in gammas]
            if found:
                settings = {k: v for k, v in group.items() if k != 'params'}
                key = id(wrapper), repr(sorted(settings.items()))
                parts.setdefault(key, _Gammas(wrapper, group, [])).gammas.extend(found)
    return list(parts.values())


def _largest(parts: list[_Gammas]) -> _Gammas:
    """Of those with weight decay, where there are any."""
    return max(parts, key=lambda part: (part.decay > 0, part.count))


def _median_size(gammas: list[Tensor], threshold: float) -> float | None:
    """Median |gamma| of those not below the threshold; None where all are."""
    sizes = torch.cat([gamma.detach().flatten().abs() for gamma in gammas]).cpu().double()
    sizes = sizes[torch.isfinite(sizes) & (sizes >= threshold)]
    return float(sizes.median()) if sizes.numel() else None


def _scheduled_lrs(runner, part: _Gammas) -> list[float] | None:
    """Learning rate of each optimizer step to come: copies of the run's schedulers are stepped on
    an optimizer of one parameter. None where one of them is not MMEngine's own or waits for
    validation results."""
    ours = [
        s for s in schedulers_of(runner) if s.optimizer is part.wrapper and s.param_name == 'lr'
    ]
    if any(
        not type(s).__module__.startswith('mmengine.') or getattr(s, 'need_val_args', False)
        for s in ours
    ):
        return None
    # a group of one parameter and of all settings, to which OneCycleLR adds its own
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=part.group['lr'])
    (group,) = optimizer.param_groups
    group.update({k: v for k, v in part.group.items() if k != 'params'})
    index = next(i for i, g in enumerate(part.wrapper.param_groups) if g is part.group)
    ours = [copy.copy(scheduler) for scheduler in ours]
    for scheduler in ours:
        scheduler.optimizer, scheduler.verbose = optimizer, False
        scheduler.base_values = [scheduler.base_values[index]]
    epoch_length = runner.max_iters // runner.max_epochs
    accumulated, lrs = accumulative_counts(part.wrapper), []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of schedulers that step where the optimizer does not
        for i in range(runner.iter + 1, runner.max_iters + 1):
            if i % accumulated == 0 or i == runner.max_iters:
                lrs.append(float(group['lr']))
            for scheduler in ours:
                if not scheduler.by_epoch or i % epoch_length == 0:
                    scheduler.step()
    return lrs
