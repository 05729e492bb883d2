"""All that mmpsbn changes in other packages; beside it, registration.py adds mmpsbn to MMEngine's
table ``MODULE2PACKAGE``, for ``_base_ = 'mmpsbn::...'``.

1. ``mmengine.model.convert_sync_batchnorm`` (0.10.7 and 0.10.12), which the runner calls
   for ``sync_bn='torch'`` or ``'mmcv'``, builds a plain SyncBatchNorm out of every
   ``_BatchNorm``. psBN layers become psSyncBN instead.
2. MMEngine's averaged models with ``update_buffers=True``, and ``EMAHook`` before its
   begin, write through ``state_dict()`` in place (0.10.7 and 0.10.12). psBN's ``bias``
   there is computed and the write would be lost, so within them it is beta itself; and
   the averaged models' state dict is taken anew each time, since pruning changes shapes.
3. The name ``CheckpointHook`` in the registry means SafeCheckpointHook, which writes
   atomically and removes old checkpoints after the new one is there.
"""

import functools

import mmengine._strategy.distributed
import mmengine.model.utils
import mmengine.runner.runner
from mmengine.hooks import EMAHook
from mmengine.model.averaged_model import BaseAveragedModel
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import PostShift, beta_in_state_dict, psSyncBN
from .checkpoint_hook import SafeCheckpointHook

_convert_sync_batchnorm = mmengine.model.utils.convert_sync_batchnorm


@functools.wraps(_convert_sync_batchnorm)
def _convert_sync_batchnorm_or_psbn(module, implementation='torch'):
    if isinstance(module, psSyncBN):
        return module
    if isinstance(module, PostShift) and isinstance(module, _BatchNorm):
        return psSyncBN.from_psbn(module)
    return _convert_sync_batchnorm(module, implementation)


_update_parameters = BaseAveragedModel.update_parameters


@functools.wraps(_update_parameters)
def _update_parameters_in_place(self, model):
    with beta_in_state_dict():
        if self.update_buffers:
            self.avg_parameters = self.module.state_dict()
        _update_parameters(self, model)


def apply_patches() -> None:
    """Apply them once; a second call changes nothing."""
    if mmengine.model.utils.convert_sync_batchnorm is _convert_sync_batchnorm_or_psbn:
        return
    for package in (
        mmengine.model.utils,
        mmengine.model,
        mmengine.runner.runner,
        mmengine._strategy.distributed,
    ):
        package.convert_sync_batchnorm = _convert_sync_batchnorm_or_psbn
    BaseAveragedModel.update_parameters = _update_parameters_in_place
    EMAHook.after_train_iter = beta_in_state_dict()(EMAHook.after_train_iter)
    HOOKS.register_module(name='CheckpointHook', module=SafeCheckpointHook, force=True)
