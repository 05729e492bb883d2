"""Floor 2: structured pruning of any torch module; knows nothing of MMEngine."""

from .activation import ActivationWindow, keep_speaking
from .api import PruneResult, prune_dead_channels
from .cost import Cost, count_positions, model_cost
from .graph import ChannelGraph, ChannelGroup, trace_channel_graph
from .plan import PrunePlan, compose_plans, plan_from_keep_masks
from .prune import Removal, prune_channels
from .ranking import RANKING_CRITERIA, keep_masks_for_budget, masked_outputs, rank_channels
from .sparsity import SparsityReport, measure_sparsity, scale_layers
from .surgery import apply_plan, is_applied
from .verification import VerificationError

__all__ = [
    'RANKING_CRITERIA',
    'ActivationWindow',
    'ChannelGraph',
    'ChannelGroup',
    'Cost',
    'PrunePlan',
    'PruneResult',
    'Removal',
    'SparsityReport',
    'VerificationError',
    'apply_plan',
    'compose_plans',
    'count_positions',
    'is_applied',
    'keep_masks_for_budget',
    'keep_speaking',
    'masked_outputs',
    'measure_sparsity',
    'model_cost',
    'plan_from_keep_masks',
    'prune_channels',
    'prune_dead_channels',
    'rank_channels',
    'scale_layers',
    'trace_channel_graph',
]
