"""Finetune detectors without losing filters by accident, or losing them on purpose.

``import mmpsbn`` registers psBN, SparsityHook and DemPHook with MMEngine.
"""

from .registration import register_all
from .version import __version__

register_all()

__all__ = ['__version__']
