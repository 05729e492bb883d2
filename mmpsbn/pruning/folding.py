"""A channel that always has the same value is a bias of the layer that reads it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..upstream import ConvBase, InstanceNormBase, NormBase
from .graph import ChannelGroup, Member


def takes_constants(
    model: nn.Module, reader: str, norm_of: Mapping[str, tuple[str, ...]], *, padded: bool
) -> bool:
    """Whether a constant that a layer reads can become its bias, or a shift of the running means
    of the norms that follow it.

    Args:
        padded: accept zero padding, where this is exact only away from the border.
    """
    layer = model.get_submodule(reader)
    if not isinstance(layer, (nn.Linear, ConvBase)):  # a deformable convolution, say
        return False
    if _pads_with_zeros(layer) and not padded:  # at the border some taps see 0, not the constant
        return False
    if getattr(layer, 'transposed', False):  # with a stride, taps differ by pixel
        return False
    bias = _own_bias(layer)
    if bias is not None:
        # a bias that two layers share would shift both
        owned = dict(recurse=False, remove_duplicate=False)
        owners = sum(bias is own for m in model.modules() for _, own in m.named_parameters(**owned))
        return owners == 1
    norms = [model.get_submodule(name) for name in norm_of.get(reader, ())]
    return bool(norms) and all(_takes_shift(norm) for norm in norms)


def _pads_with_zeros(layer: nn.Module) -> bool:
    padding = getattr(layer, 'padding', 'valid')
    if padding == 'valid' or layer.padding_mode != 'zeros':
        return False
    return max(layer.kernel_size) > 1 if padding == 'same' else any(padding)


def _own_bias(layer: nn.Module) -> Tensor | None:
    bias = getattr(layer, 'bias', None)
    return bias if isinstance(bias, nn.Parameter) else None


def _takes_shift(norm: nn.Module) -> bool:
    return isinstance(norm, NormBase) and (
        norm.running_mean is not None or isinstance(norm, InstanceNormBase)
    )


def fold_constants(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    keep_masks: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    norm_of: Mapping[str, tuple[str, ...]],
) -> Callable[[], None]:
    """Give the readers of the channels that are to go what these contribute.

    A reader with weight W that sees the constant a_c in channel c has sum_c W_c a_c added
    to its bias, or taken from the running mean of the norm that follows it. (In training
    mode that norm subtracts any constant by itself.)

    Args:
        groups, keep_masks: what is about to be removed.
        values: reader -> the constant at each position of its input dimension, shape (P,).
        norm_of: of the model's graph.

    Returns:
        A function that puts everything back, bit for bit.
    """
    with ExitStack() as undo:
        for name, keep_mask in keep_masks.items():
            if keep_mask.all():  # of its readers nothing may be known
                continue
            for reader in groups[name].readers:
                shift = _contribution(model, reader, keep_mask, values[reader.layer])
                if not shift.any():
                    continue
                bias = _own_bias(model.get_submodule(reader.layer))
                if bias is not None:
                    _add_(bias.data, shift, undo)
                    continue
                for norm in norm_of.get(reader.layer, ()):
                    mean = model.get_submodule(norm).running_mean
                    if mean is not None:  # an instance norm takes any shift away
                        _add_(mean, -shift, undo)
        return undo.pop_all().close


def _contribution(model: nn.Module, reader: Member, keep_mask: Tensor, values: Tensor) -> Tensor:
    """What the channels that go add to each output of a reader, shape (C_out,), float64."""
    # float64: a sum over all taps and channels, which a tolerance of 1e-5 then looks at
    weight = model.get_submodule(reader.layer).weight.detach().double()
    index = torch.tensor(reader.positions(~keep_mask), dtype=torch.long, device=weight.device)
    # a constant image gives every tap of a kernel the same, away from zero padding
    taps = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    return taps[:, index] @ values.to(weight)[index]


def _add_(tensor: Tensor, shift: Tensor, undo: ExitStack) -> None:
    undo.callback(tensor.copy_, tensor.clone())  # to subtract would leave a rounding error
    tensor += shift.to(tensor)
