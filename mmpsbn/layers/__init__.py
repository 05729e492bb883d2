"""Floor 1: the post-shifted normalisation layers and their conversion."""

from .conversion import convert_from_psbn, convert_to_psbn
from .kinds import NORM_LAYERS
from .psbn import PostShift, beta_in_state_dict, psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN

__all__ = [
    'NORM_LAYERS',
    'PostShift',
    'beta_in_state_dict',
    'convert_from_psbn',
    'convert_to_psbn',
    'psBN1d',
    'psBN2d',
    'psBN3d',
    'psGN',
    'psIN',
    'psSyncBN',
]
