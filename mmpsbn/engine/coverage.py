"""Which layers a forward pass calls: the traced pass must be the one that is trained."""

import copy
from collections.abc import Mapping
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..pruning import ChannelGroup
from ..pruning.forward import tensors_in
from ..pruning.other_pass import trace_other_pass
from .prune_event import on_any_rank, over_ranks
from .random_numbers import frozen_random_numbers


class CalledLayers:
    """The names of the layers with parameters of their own that are called, until closed.

    Args:
        in_training_only: leave out passes in eval mode (a validation, say).
    """

    def __init__(self, model: nn.Module, *, in_training_only: bool):
        self.names: set[str] = set()
        self._model = model
        self._in_training_only = in_training_only
        self._handles = [
            module.register_forward_pre_hook(self._note(name, module))
            for name, module in model.named_modules()
            if any(p is not None for p in module._parameters.values())
        ]

    def _note(self, name: str, watched: nn.Module):
        def note(module, args) -> None:
            # a deep copy of the model keeps the hook
            if module is watched and (self._model.training or not self._in_training_only):
                self.names.add(name)

        return note

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def held_by_losses(
    model: nn.Module, data_batch: dict, groups: Mapping[str, ChannelGroup], layers: list[str]
) -> dict[str, str]:
    """Groups that must stay whole for what the losses do with their channels, and the reasons:
    those of this rank, where it has some.

    The losses are computed on a copy, so that the look leaves no trace in the model, nor in the
    random numbers; what they keep elsewhere (in a message hub, say) is changed as by a training
    step. Collectives in losses (mmdet's ``reduce_mean``) are called as in training, by every
    rank: where one fails before one of them, the others wait for it until their time is up.

    Args:
        model: an OpenMMLab model as it is in training.
        layers: that run in training only, on one of the ranks.

    Raises:
        ValueError: on every rank where one of them cannot trace its losses, or where a layer
            runs on none.
    """
    failure = None
    try:
        held, called = _trace_losses(model, data_batch, groups)
    except Exception as error:  # the other ranks hear of it below
        held, called, failure = {}, set(), error
    missing = set(layers) - on_any_rank(called, layers)
    if over_ranks(float(failure is not None)) or missing:
        why = '' if failure is None else f' ({type(failure).__name__}: {failure})'
        raise ValueError(
            f"{', '.join(layers)} run in training but not in model(inputs, mode='tensor'), and "
            f"model(**data, mode='loss') cannot be traced{why} or does not run them: which "
            'channels they read is unknown, so nothing can be pruned safely'
        ) from failure
    elsewhere = dict.fromkeys(on_any_rank(held, list(groups)), 'on another rank')
    return elsewhere | held


def _trace_losses(model: nn.Module, data_batch: dict, groups: Mapping[str, ChannelGroup]):
    with frozen_random_numbers(model):
        model = _copy_of(model)
        for module in model.modules():  # dropout hides channels; SyncBN waits for other ranks
            if isinstance(module, (_NormBase, _DropoutNd)):
                module.training = False
        data = model.data_preprocessor(copy.deepcopy(data_batch), True)
        losses = partial(model, **data) if isinstance(data, dict) else partial(model, *data)
        return trace_other_pass(model, groups, lambda: losses(mode='loss'))


def _copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps what it computed with gradients, which torch does
    not copy."""
    computed = [t for m in model.modules() for t in tensors_in(vars(m)) if not t.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
