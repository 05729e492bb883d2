"""Why filters collapse in a run, and what the papers do about it."""

from collections.abc import Iterable

from torch import optim

from ...functional.decoupled_decay import is_decoupled
from ...layers import alpha_of
from ...pruning.sparsity import scale_layers
from ..runner_parts import bare_model, optimizers_of, pruning_hook

# They divide a step by its own size, also the part of it that is L2. Of other classes nothing is
# claimed.
_ADAPTIVE = (
    optim.Adam,
    optim.NAdam,
    optim.RAdam,
    optim.Adamax,
    optim.Adagrad,
    optim.Adadelta,
    optim.RMSprop,
)


def likely_causes(runner, layers: Iterable[str], *, threshold: float, at_start: bool) -> list[str]:
    """A sentence for each cause that the settings of this run allow, with the remedy; at least one.

    Args:
        layers: names of the layers that it is about.
        threshold: on |gamma|.
        at_start: whether it was so when training started.
    """
    if pruning_hook(runner) is not None:
        return ['DemPHook is at work, which makes filters die on purpose']
    causes = []
    if at_start:
        causes.append(
            'it was so when training started, so the filters came dead with the loaded weights: '
            'psBN pulls them back, mmpsbn prune --criterion dead takes them out'
        )
    scales = scale_layers(bare_model(runner))
    norms = [scales[name] for name in layers if name in scales]
    gammas = {norm.weight for norm in norms if norm.weight.requires_grad}
    betas = {n.bias for n in norms if alpha_of(n.bias) and n.bias.requires_grad}
    for optimizer in optimizers_of(runner):
        groups = optimizer.param_groups
        with_gammas = [g for g in groups if any(p in gammas for p in g['params'])]
        if with_gammas:
            strongest = max(with_gammas, key=lambda g: g.get('weight_decay', 0))
            causes += _causes_of(optimizer, strongest, threshold, shifted=bool(betas))
        if any(p in betas and not g.get('weight_decay') for g in groups for p in g['params']):
            causes.append(
                'no weight decay on beta, without which psBN revives nothing: no '
                'norm_decay_mult=0 or bias_decay_mult=0 for these layers'
            )
    return causes or [
        'none in the settings, as no scale of these layers is trained: either the filters came '
        'dead with the loaded weights, or what they read has changed'
    ]


def _causes_of(optimizer, group: dict, threshold: float, *, shifted: bool) -> list[str]:
    name, decay = type(optimizer).__name__, group.get('weight_decay', 0)
    highest = max(group['lr'], group.get('initial_lr', group['lr']))
    causes = [
        f'the learning rate, {highest:g}: the noise that pushes channels below zero grows with its '
        'square (psBN paper, Theorem 1), so a lower one, a warm-up or larger batches help'
    ]
    if decay and type(optimizer) in _ADAPTIVE and not is_decoupled(optimizer, group):
        causes.append(
            f'weight_decay={decay:g} on gamma inside the steps of {name}, which undo its '
            'smallness where the loss has little gradient: decouple it (AdamW), or give gamma a '
            'tenth of the learning rate (Mehta et al. section 4)'
        )
        if group.get('eps', 1) < decay * threshold:
            causes.append(
                f'eps={group["eps"]:g}, too small to slow that decay down before '
                f'|gamma| = {threshold:g}: weight_decay * |gamma| is {decay * threshold:g} there'
            )
    elif decay:
        causes.append(
            f'weight_decay={decay:g} on gamma, which shrinks what gets no gradient'
            + (
                ''
                if shifted
                else ": norm_cfg=dict(type='psBN') makes it the way back; norm_decay_mult=0 would "
                'only hide the dead behind large scales'
            )
        )
    return causes
