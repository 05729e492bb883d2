"""Floor 1: the post-shifted normalisation layers and their conversion."""

from .conversion import add_alpha, convert_from_psbn, convert_to_psbn
from .optimizer_view import alpha_of, calls_step_hooks
from .psbn import NORM_LAYERS, PostShift, psBN1d, psBN2d, psBN3d, psGN, psIN, psSyncBN

__all__ = [
    'NORM_LAYERS',
    'PostShift',
    'add_alpha',
    'alpha_of',
    'calls_step_hooks',
    'convert_from_psbn',
    'convert_to_psbn',
    'psBN1d',
    'psBN2d',
    'psBN3d',
    'psGN',
    'psIN',
    'psSyncBN',
]
