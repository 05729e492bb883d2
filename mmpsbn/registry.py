"""The scope ``mmpsbn``, which MMEngine gives to what a config inherits from ``mmpsbn::...``.

A child registry falls back on MMEngine's own one and not on those of mmdet and mmpretrain. So it
has the kinds of which our configs name nothing of theirs; what is in their models, data sets and
metrics, ours for mmpretrain too, a config asks for with a ``_scope_`` of its own. Who puts another
optimizer of theirs into an inherited config writes ``type='mmpretrain.Lamb'``.
"""

from mmengine import registry as of_mmengine
from mmengine.registry import Registry

HOOKS, DATA_SAMPLERS, FUNCTIONS, OPTIMIZERS, PARAM_SCHEDULERS = (
    Registry(parent.name, parent=parent, scope='mmpsbn', locations=['mmpsbn'])
    for parent in (
        of_mmengine.HOOKS,
        of_mmengine.DATA_SAMPLERS,
        of_mmengine.FUNCTIONS,
        of_mmengine.OPTIMIZERS,
        of_mmengine.PARAM_SCHEDULERS,
    )
)
