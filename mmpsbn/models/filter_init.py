"""Random filters of other kinds than Kaiming's."""

import torch
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..upstream import is_initialising

_KINDS = ('binarized', 'orthogonal')


@WEIGHT_INITIALIZERS.register_module(name='RandomFilters')
class RandomFiltersInit:
    """The C filters of every convolution, of Kaiming's size: a mean square of 2 / fan_in, or of
    2 / C of orthogonal ones where C is larger than fan_in, the weights in each.

    ``'binarized'``: sqrt(2 / fan_in) times the sign of a normal number. ``'orthogonal'``: rows of
    a normal matrix of shape (C, fan_in), made orthogonal (its columns, where C > fan_in).
    Source: Frankle et al. appendix E.1, whose sizes are not said: behind a norm layer they do
    not matter as long as the filters are not trained.

    Raises:
        ValueError: an unknown kind; a module without a convolution.
    """

    wholemodule = False  # set by MMEngine for an ``override``

    def __init__(self, kind: str):
        if kind not in _KINDS:
            raise ValueError(f'kind must be one of {_KINDS}, got {kind!r}')
        self.kind = kind

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        weights = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
        if not weights:
            raise ValueError(f'RandomFilters sets Conv2d layers; {type(module).__name__} has none')
        for weight in weights:
            if self.kind == 'orthogonal':
                nn.init.orthogonal_(weight, gain=2**0.5)
            else:
                size = (2 / weight[0].numel()) ** 0.5
                weight.copy_(nn.init.normal_(weight).sign() * size)
        if is_initialising(module):
            update_init_info(module, f'RandomFilters: kind={self.kind}')
