"""A device ``far`` for tests without a GPU: it lives in the host's memory, refuses what a GPU
refuses, and counts where the host would wait for it (far.cpp). It is compiled when it is first
asked for, which takes about a minute; the result stays in a folder for temporary files."""

import getpass
import hashlib
import os
import sys
import tempfile
from contextlib import nullcontext
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.utils import digit_version
from torch.utils import cpp_extension, rename_privateuse1_backend

if digit_version(torch.__version__) < digit_version('2.4'):
    reason = f'far.cpp needs the hooks for devices of torch 2.4, this is {torch.__version__}'
    pytest.skip(reason, allow_module_level=True)

_NAME = 'mmpsbn_far'
_SOURCE = Path(__file__).with_name('far.cpp')


@cache
def extension():
    """Compile and register the device, once a process."""
    rename_privateuse1_backend('far')
    native = _compiled()
    torch._register_device_module('far', _module(native))
    return native


def _compiled() -> ModuleType:
    """In a folder of this source, torch and Python.

    It is compiled beside its place and moved there whole: what a killed process leaves is in
    nobody's way. torch would leave a lock, for which all later ones wait.
    """
    made_of = f'{torch.__version__} {sys.version} {getpass.getuser()}'.encode()
    version = hashlib.sha256(_SOURCE.read_bytes() + made_of).hexdigest()[:16]
    library = Path(tempfile.gettempdir(), f'{_NAME}_{version}', f'{_NAME}.so')
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as fresh:
            flags = dict(extra_cflags=['-O0', '-g0'], build_directory=fresh)
            cpp_extension.load(_NAME, [str(_SOURCE)], is_python_module=False, **flags)
            os.replace(Path(fresh, library.name), library)
    spec = spec_from_file_location(_NAME, library)
    native = module_from_spec(spec)
    spec.loader.exec_module(native)
    return native


def _module(native) -> ModuleType:
    """``torch.far``, as much of it as torch asks for."""
    module = ModuleType('torch.far')
    generator = native.default_generator()
    functions = dict(
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        device_count=lambda: 1,
        current_device=lambda: 0,
        device=lambda *_: nullcontext(),
        synchronize=lambda *_: None,
        manual_seed=generator.manual_seed,
        manual_seed_all=generator.manual_seed,
        get_rng_state=lambda *_: generator.get_state(),
        set_rng_state=lambda state, *_: generator.set_state(state),
    )
    vars(module).update(functions)
    return module


def take_waits() -> list[str]:
    """Where the host would have waited for a GPU since this was last asked."""
    return extension().take_waits()
