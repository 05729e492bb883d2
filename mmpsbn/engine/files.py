"""Files that are at all times the old ones or the new ones, whole."""

import os

from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.backends import backends

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


def atomic_backend_args() -> dict:
    """``backend_args`` for MMEngine's functions that write files: :class:`AtomicLocalBackend`."""
    if _ATOMIC not in backends:
        register_backend(_ATOMIC, AtomicLocalBackend)
    return dict(backend=_ATOMIC)
