"""The scope ``mmpsbn``, which MMEngine gives to what a config inherits from ``mmpsbn::...``.

Hooks alone: a child registry falls back on MMEngine's own one, and for other kinds that
would hide what mmdet and mmpretrain registered in theirs.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import Registry

HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmpsbn', locations=['mmpsbn.engine'])
