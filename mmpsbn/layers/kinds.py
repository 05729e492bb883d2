"""Which layers are normalisation layers."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# of any kind, psBN and its kin too; gamma is their ``weight``
NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
