"""What SparsityHook will be able to see in a run, said before it starts."""

import copy
import math
from types import SimpleNamespace

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from ...functional.decoupled_decay import DECOUPLED_OPTIMIZERS
from ...functional.forecast import CollapseForecast, forecast_collapse
from ...functional.scalar_decay import decay_per_lr, rule_of
from ...pruning.sparsity import scale_layers
from ..runner_parts import bare_model


def collapse_forecast(runner, *, threshold: float) -> str:
    """One sentence: when a filter that dies now falls below ``threshold`` by weight decay.

    Of the trained gammas with weight decay, the largest part with the same settings is
    forecast; what DemPHook's penalty adds is not in it. |gamma| starts from their median,
    leaving out those below the threshold.
    """
    wrappers = _wrappers(runner)
    for wrapper in wrappers:
        if not isinstance(wrapper, OptimWrapper):
            return f'forecast: none under {type(wrapper).__name__}'
    if runner.iter >= runner.max_iters:
        return 'forecast: no step is left in this run'
    parts = _trained_gammas(bare_model(runner), wrappers)
    total = sum(gamma.numel() for _, _, gammas in parts for gamma in gammas)
    if not total:
        return 'forecast: no gamma is trained, so no filter can newly collapse'
    decayed = _decayed(parts)
    unseen = f'|gamma| < {threshold:g} cannot see filters that die in this run'
    if not decayed:
        return f'forecast: no weight decay on gamma, so a dead filter keeps its gamma: {unseen}'
    wrapper, group, gammas = _largest(decayed)
    optimizer = wrapper.optimizer
    known = rule_of(optimizer)
    if known is None:
        return f'forecast: none, the update rule of {type(optimizer).__name__} is not known'
    gamma = _median_size(gammas, threshold)
    if gamma is None:
        return f'forecast: none, as every gamma is below {threshold:g} already or not finite'
    rule, decoupled = known
    lrs = _scheduled_lrs(runner, wrapper, group)
    try:
        forecast = forecast_collapse(
            rule,
            gamma=gamma,
            threshold=threshold,
            lrs=_constant_lrs(runner, wrapper, group) if lrs is None else lrs,
            weight_decay=decay_per_lr(optimizer, group),
            decoupled=decoupled,
            settings=group,
        )
        _refuse_growth(forecast)
        course = _course(forecast, unseen)
    except ArithmeticError as error:  # eps = 0, or decay that diverges: a run never ends over it
        return f'forecast: none, {error}'
    return (
        f'forecast: under {type(optimizer).__name__} with '
        f'{"decoupled" if decoupled else "L2"} weight_decay={group["weight_decay"]:g}'
        f'{" at a constant lr" if lrs is None else ""}, {course} '
        f'({sum(g.numel() for g in gammas)} of {total} trained gammas, '
        f'{total - sum(g.numel() for _, _, part in decayed for g in part)} without weight decay)'
    )


# Optimizers to compare a run with: name -> (class, its settings, a usual learning rate)
_COMPARED = {
    'SGD with L2': (torch.optim.SGD, dict(momentum=0.9), 0.1),
    'Adam with L2': (torch.optim.Adam, {}, 1e-3),
    'AdamW': (torch.optim.AdamW, {}, 1e-3),
}


def compared_forecasts(runner, *, threshold: float) -> dict[str, CollapseForecast]:
    """The run's filter, decay and schedule under SGD, Adam and AdamW (Mehta et al. figure 4).

    The schedule keeps its shape; its peak is a usual learning rate of the optimizer, or the
    run's own where the run uses that rule. Empty where :func:`collapse_forecast` has no number and
    under this package's decoupled optimizers, whose lambda has another meaning;
    without an optimizer under which that decay diverges.
    """
    wrappers = _wrappers(runner)
    if runner.iter >= runner.max_iters or not all(isinstance(w, OptimWrapper) for w in wrappers):
        return {}
    decayed = _decayed(_trained_gammas(bare_model(runner), wrappers))
    if not decayed:
        return {}
    wrapper, group, gammas = _largest(decayed)
    gamma = _median_size(gammas, threshold)
    own = rule_of(wrapper.optimizer)
    lrs = gamma_lrs(runner) or _constant_lrs(runner, wrapper, group)
    peak = max(lrs)
    if own is None or gamma is None or not peak > 0:
        return {}
    if type(wrapper.optimizer) in DECOUPLED_OPTIMIZERS:  # its lambda is of no learning rate
        return {}
    found = {}
    for name, (kind, settings, usual_lr) in _COMPARED.items():
        optimizer = kind([torch.zeros(1, requires_grad=True)], lr=usual_lr, **settings)
        rule, decoupled = rule_of(optimizer)
        same = rule == own[0]
        lr = peak if same else usual_lr
        try:
            forecast = forecast_collapse(
                rule,
                gamma=gamma,
                threshold=threshold,
                lrs=[lr * x / peak for x in lrs],
                weight_decay=float(group['weight_decay']),
                decoupled=decoupled,
                settings=group if same else optimizer.defaults,
            )
            _refuse_growth(forecast)
        except ArithmeticError:  # the run's decay is too strong for this optimizer
            continue
        found[f'{name}, lr {lr:g}'] = forecast
    return found


def gamma_lrs(runner) -> list[float] | None:
    """Learning rate of the trained gammas (of the largest part with the same settings) at each
    optimizer step to come; None where the schedule is not known, or no gamma is trained."""
    wrappers = [w for w in _wrappers(runner) if isinstance(w, OptimWrapper)]
    parts = _trained_gammas(bare_model(runner), wrappers)
    if not parts:
        return None
    wrapper, group, _ = _largest(_decayed(parts) or parts)
    return _scheduled_lrs(runner, wrapper, group)


def _wrappers(runner) -> list:
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _decayed(parts: list) -> list:
    return [part for part in parts if part[1].get('weight_decay', 0) > 0]


def _largest(parts: list) -> tuple[OptimWrapper, dict, list[Tensor]]:
    return max(parts, key=lambda part: sum(gamma.numel() for gamma in part[2]))


def _median_size(gammas: list[Tensor], threshold: float) -> float | None:
    """Median |gamma| of those not below the threshold; None where all are."""
    sizes = torch.cat([gamma.detach().flatten().abs() for gamma in gammas]).cpu().double()
    sizes = sizes[torch.isfinite(sizes) & (sizes >= threshold)]
    return float(sizes.median()) if sizes.numel() else None


def _refuse_growth(forecast: CollapseForecast) -> None:
    """Raises OverflowError where the decay is so strong that gamma grows."""
    if not forecast.log_decay >= 0:
        raise OverflowError('the weight decay is so strong for the learning rate that it diverges')


def _course(forecast: CollapseForecast, unseen: str) -> str:
    dies = f'a filter that dies now at |gamma| = {forecast.gamma:.3g}'
    if forecast.steps_to_collapse is not None:
        return (
            f'{dies} counts as collapsed (|gamma| < {forecast.threshold:g}) after '
            f'{forecast.steps_to_collapse:,} of {forecast.num_steps:,} steps'
        )
    needed = math.log(forecast.gamma / forecast.threshold)
    return (
        f'{dies} keeps {math.exp(-forecast.log_decay):.3g} of it over '
        f'{forecast.num_steps:,} steps (log decay {forecast.log_decay:.3g}, needed {needed:.3g}): '
        f'{unseen}, activations can'
    )


def _trained_gammas(
    model: nn.Module, wrappers: list[OptimWrapper]
) -> list[tuple[OptimWrapper, dict, list[Tensor]]]:
    """(optimizer wrapper, param group, gammas), groups of equal settings as one."""
    gammas = {layer.weight for layer in scale_layers(model).values() if layer.weight.requires_grad}
    parts: dict = {}
    for wrapper in wrappers:
        for group in wrapper.optimizer.param_groups:
            found = [p for p in group['params'] if p in gammas]
            if found:
                settings = {k: v for k, v in group.items() if k != 'params'}
                key = id(wrapper), repr(sorted(settings.items()))
                parts.setdefault(key, (wrapper, group, []))[2].extend(found)
    return list(parts.values())


def _steps_at(runner, wrapper: OptimWrapper) -> list[bool]:
    """Of each iteration to come, whether the optimizer steps (gradient accumulation)."""
    count, last = wrapper._accumulative_counts, runner.max_iters
    return [(i + 1) % count == 0 or i + 1 == last for i in range(runner.iter, last)]


def _constant_lrs(runner, wrapper: OptimWrapper, group: dict) -> list[float]:
    return [float(group['lr'])] * sum(_steps_at(runner, wrapper))


def _scheduled_lrs(runner, wrapper: OptimWrapper, group: dict) -> list[float] | None:
    """Learning rate of each optimizer step to come, from copies of the run's schedulers;
    None where one of them is not MMEngine's own or waits for validation results."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [s for part in schedulers.values() for s in part]
    ours = [s for s in schedulers if s.optimizer is wrapper and s.param_name == 'lr']
    if any(
        not type(s).__module__.startswith('mmengine.') or getattr(s, 'need_val_args', False)
        for s in ours
    ):
        return None
    index = next(i for i, g in enumerate(wrapper.optimizer.param_groups) if g is group)
    # MMEngine makes a group of every parameter: a schedule of one group is a hundred times
    # cheaper to follow than that of all
    alone = SimpleNamespace(
        param_groups=[{k: v for k, v in group.items() if k != 'params'}],
        step=SimpleNamespace(_with_counter=True),
        _global_step=0,
    )
    ours = [copy.deepcopy(s, {id(s.optimizer): alone}) for s in ours]
    for scheduler in ours:
        scheduler.base_values = [scheduler.base_values[index]]
        scheduler.verbose = False  # it would print every step
    epoch_length = runner.max_iters // runner.max_epochs
    lrs = []
    for i, steps in enumerate(_steps_at(runner, wrapper), start=runner.iter + 1):
        if steps:
            lrs.append(float(alone.param_groups[0]['lr']))
        for scheduler in ours:
            if not scheduler.by_epoch or i % epoch_length == 0:
                scheduler.step()
    return lrs
