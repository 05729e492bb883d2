"""BN <-> psBN on a built model, in place: layers and parameters stay the same objects, so that an
optimizer that holds them goes on working."""

import warnings

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..upstream import NormBase
from .optimizer_view import restore_biases
from .psbn import PostShift, check_alpha, psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN

# plain layer -> its psBN form; those of further subclasses are added as they are met
_PS_OF: dict[type, type] = {
    nn.BatchNorm1d: psBN1d,
    nn.BatchNorm2d: psBN2d,
    nn.BatchNorm3d: psBN3d,
    nn.SyncBatchNorm: psSyncBN,
    nn.InstanceNorm2d: psIN,
    nn.GroupNorm: psGN,
}


def _ps_of(plain: type) -> type:
    """The psBN form of a BatchNorm, InstanceNorm, GroupNorm or a subclass: with the mixin."""
    if plain not in _PS_OF:
        # pickled by the plain class: this one has no name to be found by
        _PS_OF[plain] = type(
            f'ps{plain.__name__}', (PostShift, plain), dict(__reduce_ex__=_reduced)
        )
    return _PS_OF[plain]


def _plain_forms() -> dict[type, type]:
    return {ps: plain for plain, ps in _PS_OF.items()}


def _reduced(layer: PostShift, protocol: int) -> tuple:
    restore_biases()
    return _empty, (_plain_forms()[type(layer)],), vars(layer).copy()


def _empty(plain: type) -> nn.Module:
    ps = _ps_of(plain)
    return ps.__new__(ps)


def convert_to_psbn(model: nn.Module, *, alpha: float = 0.1) -> nn.Module:
    """Turn each affine BatchNorm, SyncBatchNorm, InstanceNorm and GroupNorm of ``model`` into its
    psBN form, in place.

    The model's function is unchanged: the bias is b, and from now on weight decay pulls it to
    alpha. Subclasses (timm's ``BatchNormAct2d``, say) keep their own forward pass and attributes.
    A warning names those that cannot be converted.

    Args:
        alpha: the shift, > 0.

    Returns:
        ``model``.

    Raises:
        ValueError: no layer to convert, or alpha out of range.
    """
    check_alpha(alpha)
    converted, left = [], {}
    for name, layer in model.named_modules():
        if not isinstance(layer, (NormBase, nn.GroupNorm)) or isinstance(layer, PostShift):
            continue
        if not layer.affine:
            continue
        why = _why_not(layer)
        if why:
            left[name] = why
            continue
        layer.__class__ = _ps_of(type(layer))
        layer.alpha = alpha
        layer.begin()
        converted.append(name)
    if left:
        warnings.warn(
            'left as they are: ' + ', '.join(f'{name} ({why})' for name, why in left.items()),
            stacklevel=2,
        )
    if not converted:
        raise ValueError(
            'no affine BatchNorm, SyncBatchNorm, InstanceNorm or '
            f'GroupNorm found in {type(model).__name__}'
        )
    return model


def _why_not(layer: nn.Module) -> str | None:
    """Why a layer cannot be converted; None if it can."""
    kind = type(layer).__name__
    if is_parametrized(layer) or not isinstance(getattr(layer, 'bias', None), nn.Parameter):
        return f'{kind} with computed parameters'
    if is_lazy(layer.bias):
        return f'{kind} without a width as yet'
    if hasattr(layer, 'alpha') or hasattr(layer, 'beta'):
        return f'{kind} with an alpha or beta of its own'
    return None


def convert_from_psbn(model: nn.Module) -> nn.Module:
    """Turn each psBN-like layer of ``model`` into its plain form, in place; the bias is b, and the
    function is unchanged.

    Returns:
        ``model``.

    Raises:
        ValueError: no psBN-like layer found, or one of a class that was derived from it.
    """
    layers = _psbn_layers(model)
    plain_of = _plain_forms()
    for name, layer in layers.items():
        if type(layer) not in plain_of:
            raise ValueError(f'{name} is a {type(layer).__name__}, which has no plain form')
    for layer in layers.values():
        plain = plain_of[type(layer)]
        layer.end()
        layer.__class__ = plain
    return model


@torch.no_grad()
def add_alpha(model: nn.Module, *, strict: bool = True) -> nn.Module:
    """b <- b + alpha in each psBN-like layer, once: what was read as b (the bias of a BatchNorm
    checkpoint) is beta from now on, and alpha comes on top.

    Call it after the weights are loaded. A layer remembers it, a state dict does not; one that has
    b = alpha or whose beta ``NormAffine`` has set stays as it is.

    Args:
        strict: a layer to which it was added before is an error; else it stays as it is.

    Returns:
        ``model``.

    Raises:
        ValueError: no psBN-like layer, one whose bias is computed, or alpha was added before; names
            the layer. Nothing changed.
    """
    layers = _psbn_layers(model)
    if not strict:
        layers = {name: layer for name, layer in layers.items() if not layer.alpha_added}
    for name, layer in layers.items():
        if layer.alpha_added:
            raise ValueError(f'alpha={layer.alpha} was added to the bias of {name} before')
        if not isinstance(getattr(layer, 'bias', None), nn.Parameter):
            raise ValueError(f'the bias of {name} is computed; add alpha before that')
    loaded = [m for m in layers.values() if not m.beta_given and not m.bias.eq(m.alpha).all()]
    for bias, alpha in {layer.bias: layer.alpha for layer in loaded}.items():
        bias += alpha
    for layer in loaded:
        layer.alpha_added = True
    return model


def _psbn_layers(model: nn.Module) -> dict[str, PostShift]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PostShift)}
    if not layers:
        raise ValueError(f'no psBN layer found in {type(model).__name__}')
    return layers
