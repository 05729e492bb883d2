"""Checkpoints that a kill or a full disk cannot take away."""

import os

from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.backends import backends
from mmengine.hooks import CheckpointHook

from .pruned_structure import META_KEY

_ATOMIC = 'mmpsbn_atomic'


class AtomicLocalBackend(LocalBackend):
    """Local files that are at all times the old ones or the new ones, whole."""

    def put(self, obj: bytes, filepath) -> None:
        part = f'{filepath}.part'
        os.makedirs(os.path.dirname(part) or '.', exist_ok=True)
        try:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, filepath)
        except BaseException:  # a full disk, but also SIGTERM turned into SystemExit
            if os.path.exists(part):
                os.remove(part)
            raise


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


class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, except that a checkpoint is written beside its place
    and renamed, and an outdated one is removed after the new one is there.

    MMEngine removes first and writes in place, so a process killed at that moment can
    leave none. Only local files are treated so; other backends keep their own ways.
    """

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self.backend_args is None and type(self.file_backend) is LocalBackend:
            if _ATOMIC not in backends:
                register_backend(_ATOMIC, AtomicLocalBackend)
            self.backend_args = dict(backend=_ATOMIC)
            self.file_backend = _RemoveLaterBackend()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Here, for this hook is in every run: MMEngine would load what fits and go on.
        saved = checkpoint.get('meta', {}).get(META_KEY)
        if (
            saved
            and saved['plan']['tensors']
            and not any(hasattr(hook, 'loads_pruned_checkpoints') for hook in runner.hooks)
        ):
            first = next(iter(saved['plan']['tensors']))
            raise ValueError(
                f'the checkpoint is pruned ({first} first) and this run is not: add '
                "dict(type='PrunedCheckpointHook') to custom_hooks, or use this package's tools"
            )

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        pointer = os.path.join(runner.work_dir, 'last_checkpoint')
        before = None
        if os.path.exists(pointer):
            with open(pointer, 'rb') as file:
                before = file.read()
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        except BaseException:
            if before is not None:  # MMEngine writes it in place
                AtomicLocalBackend().put(before, pointer)
            raise
        self._remove_pending()

    def _save_best_checkpoint(self, runner, metrics) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_pending()

    def _remove_pending(self) -> None:
        if isinstance(self.file_backend, _RemoveLaterBackend):
            self.file_backend.remove_pending()
