"""Which layers a forward pass calls: the traced pass must be the one that is trained."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ...pruning.forward import evaluating, tensors_in
from ...pruning.graph import ChannelGroup, trace_held_groups
from ...pruning.plan import plan_from_keep_masks
from ...pruning.surgery import apply_plan
from ...upstream import DropoutBase, NormBase, forward_hooks_of
from ..openmmlab import example_inputs, forward_tensors
from ..random_numbers import frozen_random_numbers
from ..ranks import on_any_rank, over_ranks

_WAY_OUT = (
    'make what they compare as wide as the model is, or prune after the training (mmpsbn prune)'
)


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
            if any(True for _ in module.parameters(recurse=False))
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


class TraceCoverage:
    """Whether what runs in training is what was traced, and what must stay whole where it is not.

    Watched are the run's first iteration, and windows, since a head may begin to train later.

    Args:
        hold_what_is_not_read: hold also groups with a reader that did not run in the first
            iteration, for a pruner that does not count what each reader has seen.

    Attributes:
        held: groups that stay whole.
    """

    def __init__(self, *, hold_what_is_not_read: bool):
        self._hold_what_is_not_read = hold_what_is_not_read
        self.held: set[str] = set()
        self._traced: set[str] = set()
        # Layer that runs in training only -> why the losses could not be traced, '' if they were.
        self._training_only: dict[str, str] = {}
        self._tried: set[str] = set()  # in this window, in vain
        self._called: CalledLayers | None = None
        self._first = False  # iteration of the run

    def state(self) -> dict:
        """What a resumed run must know, plain types."""
        return dict(held=sorted(self.held), training_only=self._training_only)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave, perhaps among other entries."""
        self.held, self._training_only = set(state['held']), dict(state['training_only'])

    def start(self, model: nn.Module, traced: set[str], *, first: bool) -> None:
        """``traced``: the layers that the traced pass called. ``first``: a run begins."""
        self._traced, self._first = traced, first
        if first:
            self.open(model)

    def open(self, model: nn.Module) -> None:
        """Watch until closed."""
        if self._called is None:
            self._tried = set()
            self._called = CalledLayers(model, in_training_only=True)

    def close(self) -> None:
        if self._called is not None:
            self._called.close()
            self._called = None

    @property
    def watching(self) -> bool:
        return self._called is not None

    @property
    def unknown(self) -> list[str]:
        """Why the losses could not be traced, where layers run in training only."""
        return list(dict.fromkeys(filter(None, self._training_only.values())))

    def check(
        self,
        model: nn.Module,
        data_batch: dict,
        groups: Mapping[str, ChannelGroup],
        *,
        in_window: bool,
        logger: MMLogger,
    ) -> None:
        """After an iteration. A group stays whole if a layer that reads it does not run in
        training, or if the losses hold its channels where layers run in training only, or where the
        losses fail on a narrower model.

        Args:
            in_window: go on watching after the first iteration.

        Raises:
            ValueError: in the first iteration, that no group is left, that the losses fail on a
                narrower model, or that layers run in training only that cannot be traced. Later
                these are ``unknown`` until they can.
        """
        if self._called is None:
            return
        called = on_any_rank(self._called.names, [name for name, _ in model.named_modules()])
        first, self._first = self._first, False
        if first and not in_window:
            self.close()
        whole = _not_read(groups, called) if first else {}
        if self._hold_what_is_not_read:
            self.held |= whole.keys()
        known = {name for name, failure in self._training_only.items() if not failure}
        untraced = sorted(called - self._traced - known - self._tried)
        if untraced:
            try:
                whole |= self._hold(model, data_batch, groups, untraced)
            except ValueError as error:
                if first:
                    raise
                self._training_only |= dict.fromkeys(untraced, str(error))
                self._tried.update(untraced)
        if first:
            whole |= self._hold_what_losses_fail_without(model, data_batch, groups)
        for name, reason in whole.items():
            logger.warning(f'{name} is left whole: {reason}')
        if first and whole and whole.keys() == groups.keys():
            raise ValueError(
                f'{type(model).__name__} has no group of channels that can be pruned: '
                + '; '.join(f'{name} ({reason})' for name, reason in whole.items())
            )

    def _hold(
        self,
        model: nn.Module,
        data_batch: dict,
        groups: Mapping[str, ChannelGroup],
        layers: list[str],
    ) -> dict[str, str]:
        """Leave whole from now on what the losses hold in a pass with these layers: the groups
        that were not held before, and the reasons."""
        held = held_by_losses(model, data_batch, groups, layers)
        self._training_only |= dict.fromkeys(layers, '')
        new = held.keys() - self.held
        self.held |= new
        besides = f'that has {", ".join(layers)} besides' if layers else 'that fails without it'
        return {name: f'{held[name]}, in a training pass {besides}' for name in sorted(new)}

    def _hold_what_losses_fail_without(
        self, model: nn.Module, data_batch: dict, groups: Mapping[str, ChannelGroup]
    ) -> dict[str, str]:
        """Leave whole what the losses bring together with something of a fixed size that no layer
        shows: features of a teacher out of the model, a buffer, a mask. Else training would
        fail after the first cut."""

        def failure() -> str | None:
            left = {name: group for name, group in groups.items() if name not in self.held}
            return _failure_of_losses(model, data_batch, left)

        if failure() is None or _failure_of_losses(model, data_batch, {}) is not None:
            return {}  # what fails on a copy that is whole tells nothing
        new = self._hold(model, data_batch, groups, [])
        if (still := failure()) is not None:
            raise ValueError(
                f'the losses of {type(model).__name__} fail when channels are gone ({still}): '
                f'{_WAY_OUT}'
            )
        return new


def _not_read(groups: Mapping[str, ChannelGroup], called: set[str]) -> dict[str, str]:
    """Groups with a reader that does not run in training, and the reasons."""
    return {
        name: f'{", ".join(silent)} reads it and does not run in training'
        for name, group in groups.items()
        if (silent := sorted({m.layer for m in group.readers} - called))
    }


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
        if not layers:
            raise ValueError(
                f'the losses fail when channels are gone, and cannot be traced{why}: {_WAY_OUT}'
            ) from failure
        raise ValueError(
            f"{', '.join(layers)} run in training but not in model(inputs, mode='tensor'), and "
            f"model(**data, mode='loss') cannot be traced{why} or does not run them: which "
            'channels they read is unknown, so nothing can be pruned safely'
        ) from failure
    elsewhere = dict.fromkeys(on_any_rank(held, list(groups)), 'on another rank')
    return elsewhere | held


def _trace_losses(model: nn.Module, data_batch: dict, groups: Mapping[str, ChannelGroup]):
    with frozen_random_numbers(model):
        model, losses = _copy_with_losses(model, data_batch)
        return trace_held_groups(model, groups, losses)


def _failure_of_losses(
    model: nn.Module, data_batch: dict, groups: Mapping[str, ChannelGroup]
) -> str | None:
    """Why the losses cannot be computed when each of these groups has lost some channels, and the
    outputs can (where they cannot either, verification at the cut tells which group is wrong); on
    a copy, as in :func:`held_by_losses`."""
    failure, outputs = None, False
    try:
        with frozen_random_numbers(model), torch.no_grad():
            model, losses = _copy_with_losses(model, data_batch)
            keep_masks = {name: _without_some(group) for name, group in groups.items()}
            apply_plan(model, plan_from_keep_masks(model, groups, keep_masks))
            with evaluating(model):
                forward_tensors(model, example_inputs(model, data_batch, 1))
            outputs = True
            losses()
    except Exception as error:  # the other ranks hear of it below
        failure = f'{type(error).__name__}: {error}' if outputs else None
    elsewhere = over_ranks(float(failure is not None))
    return failure or ('on another rank' if elsewhere else None)


def _without_some(group: ChannelGroup) -> Tensor:
    """A mask without the last eight channels, which a multiple of eight can spare, or the last."""
    keep = torch.ones(group.channels, dtype=torch.bool)
    if group.channels > 1:
        keep[-8 if group.channels > 9 else -1 :] = False  # not down to one, which broadcasts
    return keep


def _copy_with_losses(model: nn.Module, data_batch: dict) -> tuple[nn.Module, Callable]:
    model = _copy_of(model)
    for module in model.modules():  # dropout hides channels; SyncBN waits for other ranks
        if isinstance(module, (NormBase, DropoutBase)):
            module.training = False
    data = model.data_preprocessor(copy.deepcopy(data_batch), True)
    losses = partial(model, **data) if isinstance(data, dict) else partial(model, *data)
    return model, partial(losses, mode='loss')


def _copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps what it computed with gradients, which torch does
    not copy; without hooks that know the model itself, where they would leave what the copy
    computes."""
    computed = [t for m in model.modules() for t in tensors_in(vars(m)) if not t.is_leaf]
    copied = copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
    for module in copied.modules():
        for hooks in forward_hooks_of(module):
            for key in [key for key, hook in hooks.items() if getattr(hook, '__closure__', None)]:
                del hooks[key]
    return copied
