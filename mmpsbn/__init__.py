"""Finetune detectors without losing filters by accident, or losing them on purpose.

``import mmpsbn`` registers layers, hooks, optimizers, models and data sets with MMEngine, and
changes what engine/patches.py lists in MMEngine itself.
"""

from .registration import register_all
from .version import __version__

register_all()

__all__ = ['__version__']
