"""All that mmpsbn changes in other packages; beside it, registration.py adds mmpsbn to MMEngine's
table ``MODULE2PACKAGE``, for ``_base_ = 'mmpsbn::...'``.

1. ``BaseModule.init_weights`` (0.10.7 and 0.10.12): the init code of MMEngine, mmcv and mmdet
   writes 0 into the bias of every norm layer. For psBN that is beta, and b starts at alpha.
   Nothing but psBN layers is touched.
2. The name ``CheckpointHook`` in the registry means SafeCheckpointHook, which writes
   atomically and removes old checkpoints after the new one is there.
"""

import functools

from mmengine.model import BaseModule
from mmengine.registry import HOOKS

from ..models import start_at_alpha
from .checkpoint_hook import SafeCheckpointHook

_init_weights = BaseModule.init_weights


@functools.wraps(_init_weights)
def _init_weights_with_psbn(self) -> None:
    outermost = not hasattr(self, '_params_init_info')  # by which MMEngine tells, too
    _init_weights(self)
    if outermost:
        start_at_alpha(self)


def apply_patches() -> None:
    """Apply them; a second call changes nothing."""
    BaseModule.init_weights = _init_weights_with_psbn
    HOOKS.register_module(name='CheckpointHook', module=SafeCheckpointHook, force=True)
