"""A device ``far`` for tests without a GPU: it lives in the host's memory, refuses what a GPU
refuses, and counts where the host would wait for it (far.cpp). It is compiled when it is first
asked for, which takes under a minute; the result stays in torch's folder of extensions."""

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch.utils import cpp_extension, rename_privateuse1_backend

_SOURCE = Path(__file__).with_name('far.cpp')


@cache
def extension():
    """Compile and register the device, once a process."""
    rename_privateuse1_backend('far')
    native = cpp_extension.load('mmpsbn_far', [str(_SOURCE)], extra_cflags=['-O0', '-g0'])
    torch._register_device_module('far', _module(native))
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
