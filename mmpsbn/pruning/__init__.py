"""Floor 2: structured pruning of any torch module; knows nothing of MMEngine."""

from .activation import ActivationWindow
from .api import PruneResult, prune_dead_channels
from .census import ChannelMap, LayerChannels, map_channels, observe_channels, take_census
from .cost import Cost, count_positions, measure_latency, model_cost
from .criteria import also_live, collapsed_channels, foldable_channels, keep_mask_of
from .folding import fold_constants
from .graph import ChannelGraph, ChannelGroup, trace_channel_graph
from .measures import (
    MEASURES,
    ChannelCounts,
    Limits,
    count_channels,
    counts_table,
    mean_universality,
)
from .observation import observe_activations, raise_on_all
from .plan import PrunePlan, compose_plans, plan_from_keep_masks
from .prune import Removal, Subject, prune_channels, prune_what_holds
from .ranking import RANKING_CRITERIA, keep_masks_for_budget, rank_channels
from .sparsity import (
    begins_at_zero,
    idle_shares,
    layers_at_zero,
    removable_channels,
    scale_layers,
    scales_clamped,
)
from .surgery import apply_plan, is_applied
from .tracing import register_module_rule
from .verification import VerificationError, masked_outputs

__all__ = [
    'MEASURES',
    'RANKING_CRITERIA',
    'ActivationWindow',
    'ChannelCounts',
    'ChannelGraph',
    'ChannelGroup',
    'ChannelMap',
    'Cost',
    'LayerChannels',
    'Limits',
    'PrunePlan',
    'PruneResult',
    'Removal',
    'Subject',
    'VerificationError',
    'apply_plan',
    'also_live',
    'begins_at_zero',
    'collapsed_channels',
    'compose_plans',
    'count_channels',
    'count_positions',
    'counts_table',
    'fold_constants',
    'foldable_channels',
    'idle_shares',
    'is_applied',
    'keep_mask_of',
    'keep_masks_for_budget',
    'layers_at_zero',
    'map_channels',
    'masked_outputs',
    'mean_universality',
    'measure_latency',
    'model_cost',
    'observe_activations',
    'observe_channels',
    'plan_from_keep_masks',
    'prune_channels',
    'prune_dead_channels',
    'prune_what_holds',
    'rank_channels',
    'register_module_rule',
    'removable_channels',
    'raise_on_all',
    'scale_layers',
    'scales_clamped',
    'take_census',
    'trace_channel_graph',
]
