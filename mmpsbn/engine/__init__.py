"""Floor 3: what lives inside a runner: hooks, by subject, and the patches to MMEngine.

A hook decides when; a lower floor does what.
"""

from .autocast import BFloat16OptimWrapper
from .checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from .demp.demp_hook import DemPHook
from .norms.add_alpha_hook import AddAlphaHook
from .norms.freeze_hook import FreezeHook
from .norms.norm_constructor import NormOptimWrapperConstructor
from .rounds.rounds_hook import RoundsHook
from .rounds.snapshot_ensemble import SnapshotEnsembleHook
from .sparse_weights.sparse_weights_hook import SparseWeightsHook
from .sparsity.sparsity_hook import SparsityHook

__all__ = [
    'AddAlphaHook',
    'BFloat16OptimWrapper',
    'DemPHook',
    'FreezeHook',
    'NormOptimWrapperConstructor',
    'PrunedCheckpointHook',
    'RoundsHook',
    'SnapshotEnsembleHook',
    'SparseWeightsHook',
    'SparsityHook',
]
