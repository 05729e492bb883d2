"""Floor 2, with MMEngine: networks that OpenMMLab lacks; models pruned, seeded, partly frozen.

Importing this package registers them.
"""

from importlib.util import find_spec

from .filter_init import RandomFiltersInit
from .norm_init import NormAffineInit, start_at_alpha
from .pruned import build_pruned_model, check_state_dict, fuse_norms
from .seed_checkpoint import draw_model, pack_seed_checkpoint, unpack_seed_checkpoint
from .trained_parts import TrainedParts

__all__ = [
    'NormAffineInit',
    'RandomFiltersInit',
    'TrainedParts',
    'build_pruned_model',
    'check_state_dict',
    'draw_model',
    'fuse_norms',
    'pack_seed_checkpoint',
    'start_at_alpha',
    'unpack_seed_checkpoint',
]

# Detection users need not have mmpretrain. A broken mmpretrain still raises: hiding that would end
# in "CIFARResNet is not in the registry".
if find_spec('mmpretrain') is not None:
    from .basic_net import BasicNet
    from .cifar_resnet import PUBLISHED_KEYS, CIFARResNet

    __all__ += ['PUBLISHED_KEYS', 'BasicNet', 'CIFARResNet']
