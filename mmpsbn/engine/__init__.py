"""Floor 3: MMEngine hooks, and what the tools call (launch, one_shot, export, ...).

A hook decides when; a lower floor does what.
"""

from .add_alpha_hook import AddAlphaHook
from .autocast import BFloat16OptimWrapper
from .demp_hook import DemPHook
from .freeze_hook import FreezeHook
from .norm_constructor import NormOptimWrapperConstructor
from .pruned_checkpoint_hook import PrunedCheckpointHook
from .rounds_hook import RoundsHook
from .snapshot_ensemble import SnapshotEnsembleHook
from .sparsity_hook import SparsityHook

__all__ = [
    'AddAlphaHook',
    'BFloat16OptimWrapper',
    'DemPHook',
    'FreezeHook',
    'NormOptimWrapperConstructor',
    'PrunedCheckpointHook',
    'RoundsHook',
    'SnapshotEnsembleHook',
    'SparsityHook',
]
