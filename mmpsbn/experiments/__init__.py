"""Floor 6: experiments, the papers' and one of our own, from configs to tables."""

from importlib import import_module
from pkgutil import iter_modules

from . import catalogue
from .experiment import Experiment


def _found() -> dict[str, Experiment]:
    """Name -> experiment, of the modules of ``catalogue`` that have no underscore before them."""
    names = [m.name for m in iter_modules(catalogue.__path__) if not m.name.startswith('_')]
    return {
        name.replace('_', '-'): import_module(f'{catalogue.__name__}.{name}').EXPERIMENT
        for name in names
    }


EXPERIMENTS = _found()

__all__ = ['EXPERIMENTS']
