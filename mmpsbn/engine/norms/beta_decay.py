"""psBN revives a channel by weight decay on beta; without it, it is only a BN."""

from collections.abc import Iterable
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer

from ...layers import PostShift, alpha_of, calls_step_hooks
from ..runner_parts import bare_model, groups_by_parameter, optimizers_of

_checked: WeakSet = WeakSet()  # runners: more than one hook asks


def check_beta_decay(runner) -> None:
    """Before training, once a run: do the optimizers decay the betas of the model's psBN layers?

    Logs the layers whose beta no weight decay pulls to 0.

    Raises:
        TypeError: what an optimizer decays is not beta; see :func:`check_betas_held`.
    """
    if runner in _checked:
        return
    _checked.add(runner)
    model, optimizers = bare_model(runner), optimizers_of(runner)
    check_betas_held(model, optimizers)
    group_of = groups_by_parameter(optimizers)
    names = [
        name
        for name, biases in _trained_biases(model).items()
        if not all(group_of[bias].get('weight_decay', 0) > 0 for bias in biases)
    ]
    if names:
        runner.logger.warning(
            f'{len(names)} psBN layers have no weight decay on beta and cannot revive a '
            f'collapsed filter: {", ".join(names)}. Set weight_decay > 0, and no '
            'norm_decay_mult=0 or bias_decay_mult=0 for them.'
        )


def check_betas_held(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Raises TypeError where the bias of a psBN layer is trained in another form than by an
    optimizer that holds the parameter itself, and sees beta in its steps; names the layers."""
    optimizers = list(optimizers)
    held = groups_by_parameter(optimizers).keys()
    biases = _trained_biases(model)
    lost = [name for name, own in biases.items() if not own or not held >= set(own)]
    if lost:
        raise TypeError(
            f'{len(lost)} psBN layers are trained and their biases are in no optimizer: '
            f'{", ".join(lost)}. An optimizer on copies (FSDP with use_orig_params=False, '
            "DeepSpeed, Apex master weights) cannot pull them to alpha: train with the parameters' "
            'own, or set requires_grad=False for what is not to be trained'
        )
    if biases and not all(map(calls_step_hooks, optimizers)):
        raise TypeError(
            'torch calls no hooks of optimizers in this process, so that psBN would be a '
            'BatchNorm: torch 2.1 switches them off once torch.compile or torch.export was used; '
            'train in a process without it'
        )


def _trained_biases(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Name of a psBN layer, or of what it was converted to -> its parameters that are beta to an
    optimizer, under whatever name; none where they were taken out of the layer."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, PostShift):
            layer.mark_bias()
            own = layer.own_biases()
        else:
            own = [p for p in layer.parameters(recurse=False) if alpha_of(p)]
        trained = [p for p in own if p.requires_grad]
        if trained or isinstance(layer, PostShift) and not own:
            found[name] = trained
    return found
