"""Checkpoints that a kill or a full disk cannot take away."""

import os
from contextlib import suppress

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import set_random_seed

from ..files import AtomicLocalBackend, atomic_backend_args

_POINTER = 'last_checkpoint'


class _RemoveLaterBackend(AtomicLocalBackend):
    """Removes files only when told that what replaces them is there."""

    def __init__(self):
        self._pending: list[str] = []

    def remove(self, filepath) -> None:
        self._pending.append(filepath)

    def remove_pending(self) -> None:
        pending, self._pending = self._pending, []
        for filepath in pending:
            super().remove(filepath)


class _PointerInLogDir:
    """A runner for MMEngine's CheckpointHook, which empties the pointer to the last checkpoint
    and then writes it: in the run's log folder, where nobody reads it in between."""

    def __init__(self, runner):
        self._runner = runner
        self.work_dir = runner.log_dir

    def __getattr__(self, name):
        return getattr(self._runner, name)


class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, except that a process killed at any moment leaves a run that
    resumes as if it had not been. It becomes one where training begins, in runs with another hook
    of this package (patches.py).

    A checkpoint, and the pointer to the last one, are written beside their place and
    renamed; an outdated checkpoint is removed after the new one is there. MMEngine removes
    first and writes in place. Only local files are treated so; other backends keep their
    own ways.

    The random state (dropout, augmentation) is set from the seed and the iteration at every point
    a run can resume from: where an epoch begins, or behind each checkpoint with
    ``by_epoch=False``. There, a batch loaded in the main process (``num_workers=0``) is augmented
    before that.
    """

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if is_main_process():  # what a write that failed has left there is not to be put in place
            with suppress(FileNotFoundError):
                os.remove(os.path.join(runner.log_dir, _POINTER))
        ours = self.backend_args in (None, atomic_backend_args())
        if ours and isinstance(self.file_backend, LocalBackend):
            self.backend_args = atomic_backend_args()
            self.file_backend = _RemoveLaterBackend()

    def before_train_epoch(self, runner) -> None:
        if self.by_epoch:
            _seed_from_iteration(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not self.by_epoch and self.interval > 0 and runner.iter % self.interval == 0:
            _seed_from_iteration(runner)

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if self.by_epoch:
            return
        super().after_train_iter(_PointerInLogDir(runner), *args, **kwargs)
        self._put_in_place(runner)

    def after_train_epoch(self, runner) -> None:
        super().after_train_epoch(_PointerInLogDir(runner))
        self._put_in_place(runner)

    def after_val_epoch(self, runner, metrics) -> None:
        super().after_val_epoch(_PointerInLogDir(runner), metrics)
        self._put_in_place(runner)

    def _put_in_place(self, runner) -> None:
        written = os.path.join(runner.log_dir, _POINTER)
        if is_main_process() and os.path.exists(written):
            os.replace(written, os.path.join(runner.work_dir, _POINTER))
        if isinstance(self.file_backend, _RemoveLaterBackend):
            self.file_backend.remove_pending()


def _seed_from_iteration(runner) -> None:
    """As a function of the iteration alone, and differently on each rank where the seed is."""
    set_random_seed((runner.seed + runner.iter * runner.world_size) % 2**32)
