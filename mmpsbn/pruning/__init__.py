"""Floor 2: structured pruning of any torch module; knows nothing of MMEngine.

What a user of the package calls is here; all else is imported from its module:

- what belongs together: ``tracing`` runs the model once, ``op_rules`` and ``layer_rules`` say what
  an operation does to the labels of channels, ``channel_trace`` holds them in a ``union_find``,
  ``graph`` makes groups of them; ``flow`` says who reads a layer.
- what goes: ``activation`` and ``lossless`` (nothing is lost), ``saliency`` and ``ranking`` (live
  channels).
- how it goes: ``plan`` (plain data), ``surgery``, ``folding`` of constants, ``reconstruction`` by
  those that stay, ``repeated_sizes``.
- whether it held: ``verification``; ``prune`` puts these together, ``api`` is one call for all.
- what there is to see: ``observation``, ``census``, ``measures``, ``sparsity``; ``cost`` counts
  parameters, MACs and time.
- beneath: ``forward`` calls the model and leaves nothing of it behind.
"""

from .api import PruneResult, prune_channels_by_mask, prune_dead_channels
from .graph import trace_channel_graph
from .plan import PrunePlan
from .surgery import apply_plan
from .tracing import register_module_rule
from .verification import VerificationError

__all__ = [
    'PrunePlan',
    'PruneResult',
    'VerificationError',
    'apply_plan',
    'prune_channels_by_mask',
    'prune_dead_channels',
    'register_module_rule',
    'trace_channel_graph',
]
