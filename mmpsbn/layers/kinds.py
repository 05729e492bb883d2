"""Which layers are normalisation layers."""

from torch import nn

from ..upstream import NormBase

# BatchNorm and InstanceNorm (psBN and its kin too), GroupNorm, LayerNorm; gamma is ``weight``
NORM_LAYERS = (NormBase, nn.GroupNorm, nn.LayerNorm)
