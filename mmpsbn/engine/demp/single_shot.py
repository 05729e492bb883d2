"""Cuts at one time, by scores that take passes of their own: SNAP, CroPit-S and their early kin."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from torch import Tensor, nn

from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.saliency import GATE_SCORES, gate_scores
from ...upstream import DropoutBase
from ..openmmlab import batch_loss
from ..random_numbers import frozen_random_numbers
from ..ranks import reduced
from ..runner_parts import bare_model, epoch_length
from .budget_schedule import BudgetSchedule
from .settings import LAST_END, BudgetSettings

# Of the training data, from which a score is summed: as many as DemP's authors take.
_BATCHES = 10
# Up to here channels go at once; beyond it in so many rounds, each with new scores.
_AT_ONCE, _ROUNDS = 0.5, 5
_WAYS_OUT = dict(
    snap="choose by 'fisher', with timing='gradual' or 'early'",
    cropit='it takes second derivatives, which activation checkpointing (with_cp=True) and '
    'operations of mmcv (focal loss, RoIAlign, deformable convolution) do not give; train without '
    "them, or choose by 'snap'",
)


def shares_of_rounds(removed: float) -> list[float]:
    """Of what must go, what is to be gone after each round of one event.

    With rho > 1/2 the fraction that must go, it is (rho - (rho - 1/2) / 2^i) / rho for i = 0 .. 5,
    and then 1 (the iterative form of 2006.00896, as DemP's authors have it); else 1 at once.
    """
    if removed <= _AT_ONCE:
        return [1.0]
    beyond = removed - _AT_ONCE
    return [*((removed - beyond / 2**i) / removed for i in range(_ROUNDS + 1)), 1.0]


def scores_of_passes(
    runner,
    model: nn.Module,
    graph: ChannelGraph,
    groups: Mapping[str, ChannelGroup],
    score: str,
    draw: int,
) -> dict[str, Tensor]:
    """:func:`.gate_scores` over ten batches of the training data on every rank, the same on all.

    The order of the training's data does not change.

    Args:
        draw: number of those at this iteration; each has batches of its own, in every run.
    """
    with passes_of_its_own(model):
        scores, left_out = gate_scores(
            model,
            groups,
            graph.norm_of,
            (batch_loss(model, batch) for batch in _batches(runner, draw)),
            score=score,
            join=lambda sums: reduced(sums, 'sum'),
        )
    batches = _BATCHES * get_world_size()
    if left_out:
        runner.logger.warning(
            f'{left_out} of {batches} batches had a loss or gradients that are NaN or infinite, '
            'and count for nothing in the choice of channels'
        )
    silent = [name for name, values in scores.items() if values.isinf().all()]
    if silent and left_out < batches:
        runner.logger.warning(
            f'the loss says nothing of {len(silent)} of {len(scores)} groups, which stay whole: '
            f'{", ".join(silent)}; no sample reached them, or a norm layer behind them begins at '
            'gamma = 0: then train with zero_init_residual=False'
        )
    return scores


def try_score(
    runner,
    model: nn.Module,
    graph: ChannelGraph,
    groups: Mapping[str, ChannelGroup],
    score: str,
) -> None:
    """Of one batch, for nothing.

    Raises:
        RuntimeError: it cannot be computed; a cut may be hours away.
    """
    with passes_of_its_own(model):
        losses = [batch_loss(model, next(_batches(runner, 0)))]
        try:
            gate_scores(model, groups, graph.norm_of, losses, score=score, join=lambda sums: sums)
        except RuntimeError as error:
            raise RuntimeError(
                f'budget score={score!r} cannot be computed of a training batch '
                f'({error}); {_WAYS_OUT[score]}'
            ) from error


@contextmanager
def passes_of_its_own(model: nn.Module) -> Iterator[None]:
    """Passes within are training's, and leave no trace in buffers and random numbers; what a model
    counts or keeps elsewhere changes as by a training pass.

    Norm layers are as in training, so that those of a net that has not begun to train normalise.
    torch's dropout layers and mmcv's DropPath are off. What else drops by chance (the attention
    weights of nn.MultiheadAttention, DropBlock, F.dropout) does so from a fixed seed.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dropping = [m for m in model.modules() if isinstance(m, (DropoutBase, DropPath))]
    modes = [module.training for module in dropping]
    for module in dropping:
        module.training = False
    try:
        with frozen_random_numbers(model):
            yield
    finally:
        for module, training in zip(dropping, modes):
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


class BeforeTheFirstStep(BudgetSchedule):
    """One cut."""

    def __str__(self) -> str:
        return 'one cut before the first step'


@torch.no_grad()
def train_nothing(model: nn.Module, data_batch: dict) -> None:
    """A training pass, for the hooks of the layers that run in it."""
    with passes_of_its_own(model):
        batch_loss(model, copy.deepcopy(data_batch))


def schedule_of(
    runner, settings: BudgetSettings, *, left: float, finetunes: bool, iters_per_step: int
) -> 'BudgetSchedule | EarlyCropTiming':
    """When the cuts of a run happen.

    Args:
        left: see :class:`EarlyCropTiming`.
        finetunes, iters_per_step: see :class:`.BudgetSchedule`.

    Raises:
        ValueError: there is no room for them.
    """
    if settings.timing == 'start':
        return BeforeTheFirstStep((1,))  # in the first iteration
    if settings.timing == 'early':
        epoch = _iterations_of_an_epoch(runner.train_dataloader)
        return EarlyCropTiming(bare_model(runner), left=left, epoch=epoch, iters=runner.max_iters)
    return BudgetSchedule.of_run(
        settings, finetunes=finetunes, iters=runner.max_iters, iters_per_step=iters_per_step
    )


def check_data(loader, settings: BudgetSettings) -> None:
    """Raises TypeError for data that have no length, where score or timing need one."""
    needs = [f'score={settings.score!r}'] if settings.score in GATE_SCORES else []
    needs += [f'timing={settings.timing!r}'] if settings.timing != 'gradual' else []
    if needs and epoch_length(loader) is None:
        raise TypeError(
            f'budget {" and ".join(needs)} must have training data of a known length, and '
            f'{type(loader.dataset).__name__} has none; leave {" and ".join(needs)} out'
        )


def _iterations_of_an_epoch(loader) -> int:
    """In which the ranks together take as many samples as there are. The length of a loader is
    more where its sampler never ends, and less where it drops what fills no batch."""
    in_an_iteration = _batch_size(loader) * get_world_size()
    return min(epoch_length(loader), math.ceil(len(loader.dataset) / in_an_iteration))


def _batch_size(loader) -> int:
    return loader.batch_size or loader.batch_sampler.batch_size


def _batches(runner, draw: int) -> Iterator[dict]:
    loader = runner.train_dataloader
    seed = np.random.SeedSequence([runner.seed, runner.iter, draw, get_rank()])
    generator = np.random.default_rng(seed)
    for _ in range(_BATCHES):
        indices = generator.integers(len(loader.dataset), size=_batch_size(loader))
        yield loader.collate_fn([loader.dataset[i] for i in indices.tolist()])


class EarlyCropTiming:
    """EarlyCroP's time to prune: the end of the first epoch t that hardly moves the weights,

        0 < | |theta_t - theta_0| - |theta_(t-1) - theta_0| | / |theta_0| < 1 - rho,

    with Euclidean norms over all parameters that are trainable at the start, and the fraction rho
    that is to go (2206.10451, as DemP's authors compute it: SimonDufLab/Maxwell_demon,
    ``test_earlycrop_pruning_step`` in source/utils/scores.py; EarlyCroP's own code scales the
    threshold besides by how far the first epoch goes, which their scripts do not).

    Where no epoch does, the cut comes with the last one before 0.9 of the training.

    Args:
        left: 1 - rho.
        epoch: iterations of one.
        iters: of the whole run.
    """

    def __init__(self, model: nn.Module, *, left: float, epoch: int, iters: int):
        self._left, self._epoch = left, epoch
        self._last = int(LAST_END * iters) // epoch * epoch
        if not self._last:
            raise ValueError(
                f"budget timing 'early' looks at the ends of epochs, and none of {epoch} "
                f'iterations ends before {LAST_END:g} of a run of {iters}; train for '
                f'{int(epoch / LAST_END) + 1} iterations or more'
            )
        self._first = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._distance = 0.0
        self._found: int | None = None

    def __str__(self) -> str:
        return (
            f'one cut at the end of the first epoch of {self._epoch} iterations that moves the '
            f'weights by less than {self._left:.3g} of their first norm, or after {self._last}'
        )

    def state(self) -> dict:
        """Tensors of the first weights too, until the time has come."""
        first = {name: weight.cpu() for name, weight in self._first.items()}
        return dict(first=first, distance=self._distance, found=self._found)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave."""
        self._distance, self._found = state['distance'], state['found']
        self._first = dict(state['first'])

    def next_event(self, step: int) -> int | None:
        """Iterations done at the next end of an epoch that may be the one."""
        if self._found:
            return None
        event = (step // self._epoch + 1) * self._epoch
        return event if event <= self._last else None

    def share(self, event: int) -> float:
        """Of what must go, what is to be gone after the cut."""
        return 1.0

    @torch.no_grad()
    def has_come(self, model: nn.Module, event: int) -> bool:
        """Whether it is time, at the end of an epoch; each is asked about once."""
        if self._found:
            return True
        now = dict(model.named_parameters())
        distance = _norm(now[name] - first.to(now[name]) for name, first in self._first.items())
        moved = [abs(distance - self._distance) / _norm(self._first.values())]
        broadcast_object_list(moved)  # all ranks must act on one number
        self._distance = distance
        if 0 < moved[0] < self._left or event == self._last:
            self._found, self._first = event, {}
        return bool(self._found)


def _norm(tensors) -> float:
    return float(sum(t.double().square().sum() for t in tensors) ** 0.5)
