"""Which layers are normalisation layers."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# BatchNorm and InstanceNorm (psBN and its kin too), GroupNorm, LayerNorm; gamma is ``weight``
NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
