"""How the scales and offsets of normalisation layers start."""

from collections.abc import Sequence

import torch
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..functional.checks import is_number
from ..layers import PostShift, alpha_of
from ..pruning.sparsity import scale_layers
from ..upstream import is_initialising


@WEIGHT_INITIALIZERS.register_module(name='NormAffine')
class NormAffineInit:
    """gamma = c or gamma ~ U[low, high], beta = c, in every BatchNorm, InstanceNorm and
    GroupNorm of a module.

    As an ``init_cfg``, after those of the other layers (each child's own ``init_cfg`` comes
    after its parent's)::

        init_cfg=[dict(type='Kaiming', layer='Conv2d'), dict(type='NormAffine', gamma=[0, 1])]

    Of a psBN layer beta is what the optimizer sees: its bias starts as beta + alpha. Numbers come
    from torch's default generator, which MMEngine seeds.

    In use: gamma 1 and beta 0; gamma ~ U[0, 1], beta 0 and gamma ~ U[-1, 1], beta 0 and gamma 1,
    beta 1 (Frankle et al. section 3 and appendix E.2); smaller constants of gamma (psBN paper
    figure 5b); beta -0.1 and 1.0 (Mehta et al. supplement, table 3).

    Args:
        gamma: a number, or [low, high] with low < high.
        beta: a number.

    Raises:
        ValueError: an argument out of range; a module without a normalisation scale.
    """

    # set by MMEngine for an ``override``; this one always is for all of the module's norm layers
    wholemodule = False

    def __init__(self, gamma: float | Sequence[float] = 1.0, beta: float = 0.0):
        pair = isinstance(gamma, (list, tuple))
        if not (
            len(gamma) == 2 and all(map(is_number, gamma)) and gamma[0] < gamma[1]
            if pair
            else is_number(gamma)
        ):
            raise ValueError(
                f'gamma must be a finite number or [low, high] with low < high, got {gamma!r}'
            )
        if not is_number(beta):
            raise ValueError(f'beta must be a finite number, got {beta!r}')
        self.gamma, self.beta, self._uniform = gamma, beta, pair

    def __call__(self, module: nn.Module) -> None:
        layers = scale_layers(module)
        if not layers:
            raise ValueError(
                'NormAffine sets gamma and beta of BatchNorm, InstanceNorm and GroupNorm layers; '
                f'{type(module).__name__} has none'
            )
        for layer in layers.values():
            if self._uniform:
                nn.init.uniform_(layer.weight, *self.gamma)
            else:
                nn.init.constant_(layer.weight, self.gamma)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, self.beta + (alpha_of(layer.bias) or 0.0))
            if isinstance(layer, PostShift):
                layer.beta_given = True
        if is_initialising(module):
            update_init_info(module, f'NormAffine: gamma={self.gamma}, beta={self.beta}')


def loads_pretrained(module: nn.Module) -> bool:
    """Whether an ``init_cfg`` of the module reads weights from a file."""
    cfgs = getattr(module, 'init_cfg', None)
    cfgs = cfgs if isinstance(cfgs, (list, tuple)) else [cfgs]
    return any(c.get('type') in ('Pretrained', PretrainedInit) for c in cfgs if isinstance(c, dict))


@torch.no_grad()
def start_at_alpha(module: nn.Module) -> None:
    """Give psBN layers beta = 0 where init code has written b = 0, as that of mmcv, mmdet and
    torchvision does in every norm layer.

    What ``NormAffine`` has set and an ``init_cfg`` of type ``Pretrained`` has loaded stays.
    """
    if loads_pretrained(module):
        return
    if isinstance(module, PostShift) and not module.beta_given and not module.bias.any():
        nn.init.constant_(module.bias, module.alpha)
    for child in module.children():
        start_at_alpha(child)
