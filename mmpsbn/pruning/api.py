"""Prune anybody's model with one call.

Here a model of own code is traced, watched and costed; ``prune.py`` cuts and verifies it, and what
MMEngine's hook removes as well.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from ..functional.activations import DEAD_EPS
from ..functional.checks import is_count
from ..functional.statistics import COLLAPSED_GAMMA
from .activation import ActivationWindow
from .cost import count_positions, model_cost
from .forward import ForwardFn, call_with, observing, tensors_in
from .graph import NOT_REACHED, ChannelGraph, trace_channel_graph
from .lossless import LOSSLESS_CRITERIA, keep_mask_of, removable_without_loss
from .prune import Removal, prune_channels, prune_what_holds
from .verification import TOLERANCE, probe_outputs


@dataclass(frozen=True)
class PruneResult(Removal):
    """A verified removal and what it saved.

    Attributes:
        params_before, params_after: numbers of parameters.
        macs_before, macs_after: multiply-accumulates of the first batch.
        skipped: layer -> why its channels, or some of them, were left.
    """

    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    skipped: dict[str, str]


def prune_dead_channels(
    model: nn.Module,
    batches: Iterable[Any],
    criterion: str = 'dead',
    optimizers: Iterable[Optimizer] = (),
    forward_fn: ForwardFn = call_with,
    tolerance: float = TOLERANCE,
    *,
    eps: float = DEAD_EPS,
    gamma_threshold: float = COLLAPSED_GAMMA,
    fold_padding: bool = False,
    round_to: int = 1,
    min_channels: int = 1,
) -> PruneResult:
    """Remove channels that do nothing, in place, and check that the outputs stay.

    Args:
        model: any module, not wrapped in DDP. Its structure is that of a forward pass in eval
            mode on the first batch: what runs in training only (an auxiliary head) must not
            read prunable channels, or ``forward_fn`` must run it too.
        batches: example inputs on the model's device; the first one is also the probe on
            which outputs are compared.
        criterion: ``'dead'``: 0 on all batches wherever it is read; a layer that no sample
            reached tells nothing, so that what it reads stays. ``'collapsed'``: these,
            and channels whose |gamma| is below ``gamma_threshold`` in every norm; the constant
            that they emit goes into the bias of what reads them.
        optimizers: those that hold the model's parameters.
        forward_fn: ``forward_fn(model, batch)`` returns tensors in any nesting; by
            default ``model(batch)``, a tuple being arguments and a dict keyword arguments.
        tolerance: largest relative error of the outputs that passes for rounding. Of what
            fails, only channels that were exactly 0 are tried again, and if that fails too the
            layers at fault are left whole; why is in ``skipped``.
        eps: |a| up to which a channel counts as 0, for activations without an exact zero.
        gamma_threshold: >= 0, for ``'collapsed'``. The smaller gamma, the smaller the error.
        fold_padding: fold constants also into layers that pad with zeros, where it is exact
            only away from the border; raise ``tolerance`` with it.
        round_to: widths stay multiples of this where enough dead channels are left to do so.
        min_channels: a layer is never left with fewer.

    Raises:
        ValueError, TypeError, RuntimeError: bad input; the model is as before.
    """
    if criterion not in LOSSLESS_CRITERIA:
        raise ValueError(f'criterion must be one of {LOSSLESS_CRITERIA}, got {criterion!r}')
    rounding = dict(round_to=round_to, min_channels=min_channels)
    for name, value in rounding.items():
        if not is_count(value):
            raise ValueError(f'{name} must be an int >= 1, got {value!r}')
    _check_at_least_zero(tolerance=tolerance, eps=eps, gamma_threshold=gamma_threshold)
    batches = iter(batches)
    try:
        probe = next(batches)
    except StopIteration:
        raise ValueError('batches is empty; give at least one example input') from None
    task = _Task(model, probe, forward_fn)  # the probe is a batch too: it is watched with the rest
    graph = task.graph
    window = _watch(model, graph, itertools.chain([probe], batches), forward_fn)
    scores = {name: score.cpu() for name, score in window.scores().items()}
    keep_masks = {}
    for name, group in graph.groups.items():
        removable = removable_without_loss(
            [model],
            group,
            graph.norm_of,
            score=scores[name],
            criterion=criterion,
            eps=eps,
            gamma_threshold=gamma_threshold,
            fold_padding=fold_padding,
        )
        keep_masks[name] = keep_mask_of(group, scores[name], removable, **rounding)
    removal, refused = prune_what_holds(
        model,
        graph.groups,
        keep_masks,
        scores=scores,
        constants=[window.values()] if criterion == 'collapsed' else (),
        norm_of=graph.norm_of,
        batch=probe,
        forward_fn=forward_fn,
        optimizers=optimizers,
        tolerance=tolerance,
        **rounding,
    )
    return task.result(removal, graph.skipped | refused)


def prune_channels_by_mask(
    model: nn.Module,
    batch: Any,
    keep_masks: Mapping[str, Tensor],
    optimizers: Iterable[Optimizer] = (),
    forward_fn: ForwardFn = call_with,
    tolerance: float = TOLERANCE,
) -> PruneResult:
    """Remove the channels that you name, dead or alive, in place.

    What is checked is that the outputs are those of the model before in which no layer reads these
    channels; what a live channel was good for is for training to win back.

    Args:
        batch: an example input on the model's device, on which outputs are compared.
        keep_masks: conv or linear layer -> bool, shape (C_out,), True = keep. Of a channel that
            several layers write (a residual stream) all masks given must say that it goes.
        model, optimizers, forward_fn, tolerance: of :func:`prune_dead_channels`.

    Raises:
        VerificationError: the outputs differ; model and optimizers are as before.
        ValueError, TypeError, RuntimeError: bad input; the model is as before.
    """
    _check_at_least_zero(tolerance=tolerance)
    task = _Task(model, batch, forward_fn)
    removal = prune_channels(
        model,
        task.graph.groups,
        _group_masks(task.graph, keep_masks),
        batch=batch,
        forward_fn=forward_fn,
        optimizers=optimizers,
        tolerance=tolerance,
        live=True,
    )
    return task.result(removal, task.graph.skipped)


def _check_at_least_zero(**limits: float) -> None:
    for name, value in limits.items():
        if not (isinstance(value, (int, float)) and value >= 0):  # infinity asks for no check
            raise ValueError(f'{name} must be a number >= 0, got {value!r}')


class _Task:
    """A model that is to be pruned: what it was, and what came of it."""

    def __init__(self, model: nn.Module, batch: Any, forward_fn: ForwardFn):
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            raise TypeError(f'{type(model).__name__} holds the old shapes; pass model.module')
        _check_device(model, batch)
        self._model = model
        self.graph = trace_channel_graph(model, batch, forward_fn)
        probe_outputs(model, batch, forward_fn)  # there is something to compare
        self._positions = count_positions(model, batch, forward_fn)
        self._before = model_cost(model, self._positions)

    def result(self, removal: Removal, skipped: dict[str, str]) -> PruneResult:
        after = model_cost(self._model, self._positions)
        return PruneResult(
            **vars(removal),
            params_before=self._before.params,
            params_after=after.params,
            macs_before=self._before.macs,
            macs_after=after.macs,
            skipped=skipped,
        )


def _check_device(model: nn.Module, batch: Any) -> None:
    # torch's own error comes from deep within the model, and names no tensor
    devices = {tensor.device for tensor in model.parameters()}
    for tensor in tensors_in(batch):
        if devices and tensor.device not in devices:
            raise ValueError(
                f'a batch is on {tensor.device} and {type(model).__name__} on '
                f'{", ".join(map(str, devices))}; move the batch to the model'
            )


def _watch(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any], forward_fn: ForwardFn
) -> ActivationWindow:
    """What the readers see over the batches, in eval mode.

    Raises:
        ValueError: a batch runs a layer that the traced one did not; names it.
    """

    def refuse(module, args) -> None:
        raise ValueError(
            f'{name_of[module]} runs on a later batch and not on the first, so that what it reads '
            'is unknown; put a batch first that runs all of the model'
        )

    # What the probe did not reach has no place in the graph: nobody would notice that it reads.
    name_of = {model.get_submodule(n): n for n, why in graph.skipped.items() if why == NOT_REACHED}
    window = ActivationWindow(model, graph.groups, in_training_only=False)
    with closing(window), ExitStack() as hooks, observing(model):
        for module in name_of:
            hooks.enter_context(module.register_forward_pre_hook(refuse))
        for batch in batches:
            _check_device(model, batch)
            forward_fn(model, batch)
    return window


def _group_masks(graph: ChannelGraph, layer_masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep masks of groups from those of layers, see :func:`prune_channels_by_mask`.

    Raises:
        ValueError: a mask of the wrong length, type or layer, one that is all False, or
            one that removes what cannot be removed alone; names the layer.
    """
    writers = {m.layer: (g, m) for g in graph.groups.values() for m in g.writers}
    masks: dict[str, Tensor] = {}
    for layer, keep in layer_masks.items():
        if layer not in writers:
            known = graph.skipped.get(layer, f'no such layer; prunable are {list(writers)}')
            raise ValueError(f'keep mask of {layer}: {known}')
        group, member = writers[layer]
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != (member.size,):
            raise ValueError(
                f'keep mask of {layer}: must be a bool tensor of shape ({member.size},), True = '
                f'keep, got {getattr(keep, "dtype", type(keep).__name__)} of shape '
                f'{tuple(getattr(keep, "shape", ()))}'
            )
        keep = keep.cpu()
        if not keep.any():
            raise ValueError(f'keep mask of {layer}: all False; a layer needs one channel')
        mask, channel = torch.ones(group.channels, dtype=torch.bool), torch.tensor(member.channel)
        mask[channel] = False
        mask[channel[keep[list(member.index)]]] = True  # one position that stays holds its channel
        removed = (~keep).nonzero().flatten().tolist()
        alone = set(removed).difference(member.positions(~mask))
        if alone:
            raise ValueError(
                f'keep mask of {layer}: channels {sorted(alone)} cannot be removed '
                f'({graph.skipped.get(layer, "only together with others of their group")})'
            )
        masks[group.name] = masks.get(group.name, torch.zeros_like(mask)) | mask
    return masks
