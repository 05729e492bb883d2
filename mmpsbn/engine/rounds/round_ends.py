"""Where the rounds of a training with warm restarts end."""

from mmengine.optim.scheduler import CosineRestartParamScheduler

from ..runner_parts import in_epochs, schedulers_of


def round_ends(runner) -> list[int]:
    """Iterations after which the learning rate restarts, and the last one of the training.

    Raises:
        ValueError: nothing restarts it, or several optimizers' at different times; a round
            would not be whole.
    """
    epoch_length = runner.max_iters // runner.max_epochs
    found = {
        tuple(
            (s.begin + period) * (epoch_length if s.by_epoch else 1)
            for period in s.cumulative_periods
        )
        for s in schedulers_of(runner)
        if isinstance(s, CosineRestartParamScheduler) and s.param_name == 'lr'
    }
    if len(found) != 1:
        raise ValueError(
            f'rounds need one schedule of restarts, param_scheduler has {len(found)}: add '
            "dict(type='CosineRestartLR', periods=[40] * 5, restart_weights=[1] * 5, eta_min=0)"
        )
    (ends,) = found
    unit, step = ('epoch', epoch_length) if in_epochs(runner) else ('iteration', 1)
    if ends[-1] != runner.max_iters or any(end % step for end in ends):
        raise ValueError(
            f'the rounds of CosineRestartLR end at {unit}s {[end / step for end in ends]}, the '
            f'training at {unit} {runner.max_iters // step}: each round must end with an {unit}, '
            'the last one with the training'
        )
    return list(ends)
