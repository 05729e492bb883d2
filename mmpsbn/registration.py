"""Everything mmpsbn adds to MMEngine's registries, in one place."""

from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS

from . import engine, layers, registry
from .engine.mmcv_rules import register_mmcv_rules
from .engine.patches import apply_patches


def register_all() -> None:
    """Register layers, the tracer's rules for mmcv and, where mmpretrain is installed, models;
    apply the patches.

    The hooks register themselves when ``engine`` is imported.
    """
    for name in ('psBN1d', 'psBN2d', 'psBN3d', 'psSyncBN', 'psIN', 'psGN'):
        MODELS.register_module(name=name, module=getattr(layers, name), force=True)
    MODELS.register_module(name='psBN', module=layers.psBN2d, force=True)
    if find_spec('mmpretrain'):
        from . import models  # noqa: F401
    # lets configs say _base_ = 'mmpsbn::retinanet/...'
    MODULE2PACKAGE['mmpsbn'] = 'mmpsbn'
    apply_patches()
    register_mmcv_rules()


__all__ = ['engine', 'register_all', 'registry']
