"""psBN revives a channel by weight decay on beta; without it, it is only a BN."""

from ..layers import PostShift
from .models import bare_model, optimizers_of


def warn_if_beta_not_decayed(runner) -> None:
    """Log, once a run, the psBN layers whose beta no weight decay pulls to 0."""
    if getattr(runner, '_mmpsbn_beta_decay_checked', False):
        return
    runner._mmpsbn_beta_decay_checked = True
    decay_of = {
        p: group.get('weight_decay', 0)
        for optimizer in optimizers_of(runner)
        for group in optimizer.param_groups
        for p in group['params']
    }
    names = [
        name
        for name, layer in bare_model(runner).named_modules()
        if isinstance(layer, PostShift)
        and layer.beta.requires_grad
        and not decay_of.get(layer.beta, 0) > 0
    ]
    if names:
        runner.logger.warning(
            f'{len(names)} psBN layers have no weight decay on beta and cannot revive a '
            f'collapsed filter: {", ".join(names)}. Set weight_decay > 0, and no '
            'norm_decay_mult=0 or bias_decay_mult=0 for them.'
        )
