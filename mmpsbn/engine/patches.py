"""All that mmpsbn changes in other packages; beside it, registration.py adds mmpsbn to MMEngine's
table ``MODULE2PACKAGE``, for ``_base_ = 'mmpsbn::...'``. A run that uses nothing of mmpsbn computes
the same to the bit and writes the same files as without the import (tests/test_foreign_run.py).

1. ``BaseModule.init_weights`` (0.10.7 and 0.10.12): the init code of MMEngine, mmcv and mmdet
   writes 0 into the bias of every norm layer. For psBN that is beta, and b starts at alpha.
   Nothing but psBN layers is touched.
2. In a run with a hook of mmpsbn, MMEngine's CheckpointHook becomes a SafeCheckpointHook where
   training begins, however the config names it (0.10.7 and 0.10.12 remove the old checkpoint first
   and write the new one in place). A subclass keeps its own ways.
3. MMEngine's ``load_state_dict`` prints a shape that does not fit and goes on (0.10.7 and
   0.10.12). Where a prune plan is why, which ``CheckpointLoader`` finds in the file, it is an
   error: for runners, ``init_detector``, inferencers and ``init_cfg``. By the same way psBN layers
   hear that AddAlphaHook has been at their bias. Checkpoints without ``meta['mmpsbn']`` or
   ``meta['psbn_alpha_added']`` load as ever.
"""

import functools

import mmengine.runner.checkpoint
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader

from ..models import start_at_alpha
from ..upstream import is_initialising
from .checkpoints.checkpoint_hook import SafeCheckpointHook
from .checkpoints.pruned_weights import check_plan_applied, note_plan
from .norms.add_alpha_hook import mark_alpha_added, note_alpha

_init_weights = BaseModule.init_weights


@functools.wraps(_init_weights)
def _init_weights_with_psbn(self) -> None:
    outermost = not is_initialising(self)
    first = not self.is_init  # a second call changes nothing
    _init_weights(self)
    if outermost and first:
        start_at_alpha(self)


_before_train = CheckpointHook.before_train


def _is_ours(hook: Hook) -> bool:
    """Of this package, or derived from one that is."""
    package = __name__.partition('.')[0]
    return any(kind.__module__.partition('.')[0] == package for kind in type(hook).__mro__)


@functools.wraps(_before_train)
def _before_safe_train(self, runner):
    if type(self) is CheckpointHook and any(map(_is_ours, runner.hooks)):
        self.__class__ = SafeCheckpointHook
        self.before_train(runner)
    else:
        _before_train(self, runner)


_read_checkpoint = CheckpointLoader.load_checkpoint


@functools.wraps(_read_checkpoint)
def _read_checkpoint_with_plan(*args, **kwargs):
    checkpoint = _read_checkpoint(*args, **kwargs)
    note_plan(checkpoint)
    note_alpha(checkpoint)
    return checkpoint


_load_state_dict = mmengine.runner.checkpoint.load_state_dict


@functools.wraps(_load_state_dict)
def _load_checked_state_dict(module, state_dict, *args, **kwargs):
    check_plan_applied(module, state_dict)
    mark_alpha_added(module, state_dict)
    return _load_state_dict(module, state_dict, *args, **kwargs)


def apply_patches() -> None:
    """Apply them; a second call changes nothing."""
    BaseModule.init_weights = _init_weights_with_psbn
    CheckpointHook.before_train = _before_safe_train
    CheckpointLoader.load_checkpoint = _read_checkpoint_with_plan
    for package in (mmengine.runner.checkpoint, mmengine.runner):
        package.load_state_dict = _load_checked_state_dict
