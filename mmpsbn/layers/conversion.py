"""BN <-> psBN on a built model. Parameters stay the same objects, so an optimizer
that holds them goes on working."""

import torch
from torch import nn

from .psbn import PRETRAINED_BIAS, PostShift, psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN

_PLAIN_TO_PS = {
    nn.BatchNorm1d: psBN1d,
    nn.BatchNorm2d: psBN2d,
    nn.BatchNorm3d: psBN3d,
    nn.SyncBatchNorm: psSyncBN,
    nn.InstanceNorm2d: psIN,
    nn.GroupNorm: psGN,
}
_PS_TO_PLAIN = {ps: plain for plain, ps in _PLAIN_TO_PS.items()}


def _arguments(layer: nn.Module) -> dict:
    if isinstance(layer, nn.GroupNorm):
        names = ('num_channels', 'num_groups', 'eps', 'affine')
    else:
        names = ('num_features', 'eps', 'momentum', 'affine', 'track_running_stats')
    if hasattr(layer, 'process_group'):  # SyncBatchNorm and psSyncBN
        names = (*names, 'process_group')
    return {name: getattr(layer, name) for name in names}


def _replace(layer: nn.Module, new: nn.Module, shift: float) -> nn.Module:
    with torch.no_grad():
        layer._parameters['bias'].add_(shift)
    new._parameters.update(layer._parameters)
    new._buffers.update(layer._buffers)
    return new.train(layer.training)


def _swap_layers(model: nn.Module, swap) -> tuple:
    """Replace each submodule m by swap(m) where that is not None. Returns the model
    (another object only if it is itself such a layer) and the names replaced."""
    swapped, names = {}, []
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if layer not in swapped:  # a layer used under two names stays one layer
            swapped[layer] = swap(layer)
        if swapped[layer] is None:
            continue
        names.append(name)
        if not name:
            return swapped[layer], names
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, swapped[layer])
    return model, names


def convert_to_psbn(
    model: nn.Module, *, alpha: float = 0.1, pretrained_bias: str = 'effective'
) -> nn.Module:
    """Turn each affine BN, SyncBN, IN and GN of ``model`` into its psBN form, in place.

    Args:
        alpha: the shift, > 0.
        pretrained_bias: ``'effective'``, the model's function is unchanged
            (beta = bias - alpha); ``'beta'``, beta = bias and alpha comes on top.

    Returns:
        ``model``, or its replacement if it is itself such a layer.

    Raises:
        ValueError: no layer to convert, or an argument out of range.
    """
    if pretrained_bias not in PRETRAINED_BIAS:
        raise ValueError(
            f'pretrained_bias must be one of {PRETRAINED_BIAS}, got {pretrained_bias!r}'
        )
    shift = -alpha if pretrained_bias == 'effective' else 0.0

    def swap(layer):
        ps_type = _PLAIN_TO_PS.get(type(layer))
        if ps_type is None or not layer.affine:
            return None
        new = ps_type(**_arguments(layer), alpha=alpha)
        return _replace(layer, new, shift)

    model, names = _swap_layers(model, swap)
    if not names:
        raise ValueError(
            'no affine BatchNorm, SyncBatchNorm, InstanceNorm2d or '
            f'GroupNorm found in {type(model).__name__}'
        )
    return model


def convert_from_psbn(model: nn.Module) -> nn.Module:
    """Turn each psBN-like layer of ``model`` into its plain form, in place; the
    function is unchanged (bias = beta + alpha).

    Returns:
        ``model``, or its replacement if it is itself such a layer.

    Raises:
        ValueError: no psBN-like layer found.
    """

    def swap(layer):
        if not isinstance(layer, PostShift):
            return None
        new = _PS_TO_PLAIN[type(layer)](**_arguments(layer))
        return _replace(layer, new, layer.alpha)

    model, names = _swap_layers(model, swap)
    if not names:
        raise ValueError(f'no psBN layer found in {type(model).__name__}')
    return model
