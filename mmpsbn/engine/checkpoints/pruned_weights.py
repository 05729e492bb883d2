"""Weights of a pruned model on their way into one that is not: an error, in any loader."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...pruning import PrunePlan
from ...pruning.plan import named_tensors
from ..runner_parts import unwrap
from .pruned_structure import saved_by, state_dict_of

# tensor read from a pruned checkpoint -> the dimensions that its plan has cut
_cut_dims = WeakTensorKeyDictionary()


def note_plan(checkpoint: Any) -> None:
    """Remember which tensors of a checkpoint its plan has cut: MMEngine's loaders pass on
    the tensors alone, or some of them, or under other names.

    Raises:
        ValueError: there is a plan that cannot be read.
    """
    saved = saved_by(checkpoint) if isinstance(checkpoint, Mapping) else None
    if saved is None:
        return
    tensors = state_dict_of(checkpoint)
    for name, dims in PrunePlan.from_dict(saved.get('plan')).kept.items():
        if name in tensors:
            _cut_dims[tensors[name]] = tuple(dims)


def check_plan_applied(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Raises ValueError where a plan has cut a tensor and the model has it whole, or cut
    otherwise; names the first. Other dimensions may differ, as a new head's do."""
    cut = {k: v for k, v in state_dict.items() if isinstance(v, Tensor) and v in _cut_dims}
    tensors = named_tensors(unwrap(model)) if cut else {}
    for name in [name for name in cut if name in tensors]:
        shape, wanted = tuple(cut[name].shape), tuple(tensors[name].shape)
        if any(shape[dim : dim + 1] != wanted[dim : dim + 1] for dim in _cut_dims[cut[name]]):
            raise ValueError(
                f'{name} is pruned to shape {shape} in the checkpoint and has {wanted} in the '
                "model: for load_from, resume and test add dict(type='PrunedCheckpointHook') to "
                'custom_hooks (mmpsbn train and mmpsbn test do); for init_cfg and init_detector '
                'write a config and weights of its own with mmpsbn export'
            )
