"""Cuts at one time, by scores that take passes of their own: SNAP, CroPit-S and their early kin."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.dist import get_rank
from torch import Tensor, nn

from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.saliency import gate_scores
from ...upstream import DropoutBase
from ..openmmlab import batch_loss
from ..random_numbers import frozen_random_numbers
from ..ranks import reduced
from ..runner_parts import bare_model, epoch_length
from .pace import Pace
from .settings import LAST_END, BudgetSettings

# Of the training data, from which a score is summed: as many as DemP's authors take.
_BATCHES = 10
# Up to here channels go at once; beyond it in so many rounds, each with new scores.
_AT_ONCE, _ROUNDS = 0.5, 5


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
    runner, model: nn.Module, graph: ChannelGraph, groups: Mapping[str, ChannelGroup], score: str
) -> dict[str, Tensor]:
    """:func:`.gate_scores` over ten batches of the training data on every rank, the same on all.

    The order of the training's data does not change.
    """
    with passes_of_its_own(model):
        scores = gate_scores(
            model,
            groups,
            graph.norm_of,
            (batch_loss(model, batch) for batch in _batches(runner)),
            score=score,
            join=lambda sums: reduced(sums, 'sum'),
        )
    silent = [name for name, values in scores.items() if values.isinf().all()]
    if silent:
        runner.logger.warning(
            f'the loss says nothing of {len(silent)} of {len(scores)} groups, which stay whole: '
            f'{", ".join(silent)}; where a norm layer behind them begins at gamma = 0, train with '
            'zero_init_residual=False'
        )
    return scores


@contextmanager
def passes_of_its_own(model: nn.Module) -> Iterator[None]:
    """Passes within are training's, and leave no trace in buffers and random numbers.

    Norm layers are as in training, so that those of a net that has not begun to train normalise.
    Dropout and stochastic depth are off.
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


class BeforeTheFirstStep(Pace):
    """One cut."""

    def __str__(self) -> str:
        return 'one cut before the first step'


@torch.no_grad()
def train_nothing(model: nn.Module, data_batch: dict) -> None:
    """A training pass, for the hooks of the layers that run in it."""
    with passes_of_its_own(model):
        batch_loss(model, copy.deepcopy(data_batch))


def pace_of(
    runner, settings: BudgetSettings, *, left: float, finetunes: bool, iters_per_step: int
) -> 'Pace | FirstLazyEpoch':
    """When the cuts of a run happen.

    Args:
        left: see :class:`FirstLazyEpoch`.
        finetunes, iters_per_step: see :class:`.Pace`.

    Raises:
        ValueError: there is no room for them.
    """
    if settings.timing == 'start':
        return BeforeTheFirstStep((1,))  # in the first iteration
    if settings.timing == 'early':
        epoch = epoch_length(runner.train_dataloader)
        return FirstLazyEpoch(bare_model(runner), left=left, epoch=epoch, iters=runner.max_iters)
    return Pace.of_run(
        settings, finetunes=finetunes, iters=runner.max_iters, iters_per_step=iters_per_step
    )


def check_data(loader) -> None:
    """Raises TypeError for data from which no batch of one's own can be drawn."""
    if epoch_length(loader) is None:
        raise TypeError(
            f"budget scores 'snap' and 'cropit' and timing 'early' need training data of a known "
            f'length, and {type(loader.dataset).__name__} has none; choose by another score'
        )


def _batches(runner) -> Iterator[dict]:
    loader = runner.train_dataloader
    size = loader.batch_size or loader.batch_sampler.batch_size
    generator = torch.Generator().manual_seed(get_rank())
    for _ in range(_BATCHES):
        indices = torch.randint(len(loader.dataset), (size,), generator=generator)
        yield loader.collate_fn([loader.dataset[i] for i in indices.tolist()])


class FirstLazyEpoch:
    """EarlyCroP's time to prune: the end of the first epoch t that hardly moves the weights,

        0 < | |theta_t - theta_0| - |theta_(t-1) - theta_0| | / |theta_0| < 1 - rho,

    with Euclidean norms over all trainable parameters and the fraction rho that is to go
    (2206.10451, as DemP's authors compute it: SimonDufLab/Maxwell_demon,
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
        self._first = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        self._distance = 0.0
        self._found: int | None = None

    def __str__(self) -> str:
        return (
            f'one cut at the end of the first epoch of {self._epoch} iterations that moves the '
            f'weights by less than {self._left:.3g} of their first norm, or after {self._last}'
        )

    def state(self) -> dict:
        """Tensors of the first weights too, until the time has come."""
        first = [] if self._found else [weight.cpu() for weight in self._first]
        return dict(first=first, distance=self._distance, found=self._found)

    def restore(self, state: Mapping) -> None:
        """Go on from what :meth:`state` gave."""
        self._distance, self._found = state['distance'], state['found']
        pairs = zip(self._first, state['first'])
        self._first = [here.copy_(weight) for here, weight in pairs]

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
        now = (p for p in model.parameters() if p.requires_grad)
        distance = _norm(a - b for a, b in zip(now, self._first))
        moved = abs(distance - self._distance) / _norm(self._first)
        self._distance = distance
        if 0 < moved < self._left or event == self._last:
            self._found, self._first = event, []
        return bool(self._found)


def _norm(tensors) -> float:
    return float(sum(t.double().square().sum() for t in tensors) ** 0.5)
