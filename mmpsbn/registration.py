"""Everything mmpsbn adds to MMEngine's registries, in one place."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, OPTIMIZERS

from . import datasets, engine, layers, models, registry
from .engine.mmcv_rules import register_mmcv_rules
from .engine.patches import apply_patches
from .functional.decoupled_decay import DECOUPLED_OPTIMIZERS


def register_all() -> None:
    """Register layers, optimizers and the tracer's rules for mmcv; apply the patches.

    Hooks, models and data sets register themselves when ``engine``, ``models`` and ``datasets`` are
    imported.
    """
    for name in ('psBN1d', 'psBN2d', 'psBN3d', 'psSyncBN', 'psIN', 'psGN'):
        MODELS.register_module(name=name, module=getattr(layers, name), force=True)
    MODELS.register_module(name='psBN', module=layers.psBN2d, force=True)
    for optimizer in DECOUPLED_OPTIMIZERS:
        OPTIMIZERS.register_module(module=optimizer, force=True)
    # lets configs say _base_ = 'mmpsbn::retinanet/...'
    MODULE2PACKAGE['mmpsbn'] = 'mmpsbn'
    apply_patches()
    register_mmcv_rules()


__all__ = ['datasets', 'engine', 'models', 'register_all', 'registry']
