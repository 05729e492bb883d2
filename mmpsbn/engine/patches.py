"""All that mmpsbn changes in other packages, in one place.

1. ``mmengine.model.convert_sync_batchnorm`` (0.10.7 and 0.10.12), which the runner calls
   for ``sync_bn='torch'`` or ``'mmcv'``, builds a plain SyncBatchNorm out of every
   ``_BatchNorm``. psBN layers become psSyncBN instead.
2. MMEngine's averaged models with ``update_buffers=True``, and ``EMAHook`` before its
   begin, write through ``state_dict()`` in place (0.10.7 and 0.10.12). psBN's ``bias``
   there is computed and the write would be lost, so within them it is beta itself.
"""
import functools

import mmengine.model.utils
import mmengine.runner.runner
from mmengine.hooks import EMAHook
from mmengine.model.averaged_model import BaseAveragedModel
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import PostShift, beta_in_state_dict, psSyncBN

_convert_sync_batchnorm = mmengine.model.utils.convert_sync_batchnorm


@functools.wraps(_convert_sync_batchnorm)
def _convert_sync_batchnorm_or_psbn(module, implementation='torch'):
    if isinstance(module, psSyncBN):
        return module
    if isinstance(module, PostShift) and isinstance(module, _BatchNorm):
        return psSyncBN.from_psbn(module)
    return _convert_sync_batchnorm(module, implementation)


def apply_patches() -> None:
    """Apply them once; a second call changes nothing."""
    if mmengine.model.utils.convert_sync_batchnorm is _convert_sync_batchnorm_or_psbn:
        return
    for package in (mmengine.model.utils, mmengine.model, mmengine.runner.runner):
        package.convert_sync_batchnorm = _convert_sync_batchnorm_or_psbn
    for owner, name in ((BaseAveragedModel, 'update_parameters'),
                        (EMAHook, 'after_train_iter')):
        setattr(owner, name, beta_in_state_dict()(getattr(owner, name)))
