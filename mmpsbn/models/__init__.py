"""Networks that mmpretrain lacks.

Importing this package registers them where mmpretrain is installed; elsewhere it does nothing.
"""

from importlib.util import find_spec

__all__ = []

# Detection users need not have mmpretrain. A broken mmpretrain still raises: hiding that would end
# in "CIFARResNet is not in the registry".
if find_spec('mmpretrain') is not None:
    from .cifar_resnet import CIFARResNet

    __all__ += ['CIFARResNet']
