"""Rounds of cosine annealing: what each leaves behind, and what lies between two of them."""

import os
from numbers import Real

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...functional.activations import DEAD_EPS
from ...functional.checks import is_number
from ...functional.rounds import reset_state_, shuffle_
from ...functional.statistics import COLLAPSED_GAMMA
from ...pruning.activation import ActivationWindow
from ...pruning.measures import Limits
from ..arguments import names_its_arguments, require, require_bool
from ..ranks import joined_scores, of_rank_0
from ..runner_parts import (
    bare_model,
    check_replaceable,
    epoch_length,
    in_epochs,
    optimizers_of,
)
from ..sparsity.channel_watch import ChannelWatch
from ..sparsity.growth import load_growth, save_growth
from ..sparsity.reading import FLOPS, NOT_GROWN, WEIGHTS
from .round_ends import round_ends
from .table import RoundsTable


@HOOKS.register_module()
class RoundsHook(Hook):
    """Training in rounds, one stage of cosine annealing each (psBN paper section 3.2).

    The rounds are those of the run's learning rate, which MMEngine's ``CosineRestartLR``
    restarts: eta_t = eta_0 (1 + cos(pi t / T)) / 2 at step t of a round of T ::

        param_scheduler = dict(
            type='CosineRestartLR', periods=[100] * 9, restart_weights=[1] * 9, eta_min=0)

    Writes ``rounds.json`` into the work folder, a list with one object a round: ``round``
    (from 1), ``iter`` at its end, ``loss`` (training, mean of the last epoch), ``collapsed`` of
    ``channels`` filters with |gamma| < ``gamma_threshold`` (without the ``not_grown`` of layers
    that began at 0, as SparsityHook counts), ``flops_sparsity`` and
    ``weight_sparsity`` if these were removed, ``metrics`` of the validation at its end, and
    ``dead`` of ``prunable`` channels that are 0 on the whole of it. The numbers also go to the
    visualizer as ``round/...``, the step being the round. A round that no validation followed
    is validated before the next one begins. A resumed run goes on with the table. Of a net
    without normalisation layers ``channels`` is 0, the rest is as ever.

    Args:
        gamma_threshold: on |gamma|, > 0.
        reset_optimizer: each round begins with a fresh optimizer state.
        shuffle: between two rounds the values of every trainable parameter change places
            within it, each tensor by a permutation of its own, drawn from the run's seed and
            the round (section 3.6). Optimizer states, which belong to the places, are reset
            with it; running statistics and averaged models (EMA) stay.

    Raises:
        ValueError: an argument out of range. Before the first step: no restarts in the
            learning rate, or rounds that do not end with the training.
        TypeError: a wrapper that holds the weights in another form (FSDP), before the first step.
    """

    priority = 'LOW'  # after optimizer, EMA and pruning, before the checkpoint is saved

    @names_its_arguments
    def __init__(
        self,
        gamma_threshold: float = COLLAPSED_GAMMA,
        reset_optimizer: bool = False,
        shuffle: bool = False,
    ):
        require(
            is_number(gamma_threshold) and gamma_threshold > 0,
            f'gamma_threshold must be > 0 and finite, got {gamma_threshold!r}',
        )
        require_bool('reset_optimizer', reset_optimizer)
        require_bool('shuffle', shuffle)
        self.reset_optimizer = reset_optimizer
        self.shuffle = shuffle
        self._watch = ChannelWatch(
            [Limits(gamma=gamma_threshold, eps=DEAD_EPS)], ('collapsed', FLOPS, WEIGHTS), None
        )
        self._batch = None  # the first one seen, for the trace
        self._ends: list[int] = []  # in iterations
        self._begun = 0
        self._table: RoundsTable | None = None
        self._window: ActivationWindow | None = None
        self._seed = 0

    def before_train(self, runner) -> None:
        check_replaceable(runner.model, who='RoundsHook')
        self._watch.begin(runner)
        self._ends = round_ends(runner)
        self._table = RoundsTable(os.path.join(runner.work_dir, 'rounds.json'))
        failure = None
        if is_main_process():
            try:
                self._table.read(runner.iter)
            except ValueError as error:  # the other ranks wait to hear of it
                failure = error
        shared = of_rank_0((self._table.rows, runner.seed, failure))
        self._table.rows, self._seed, failure = shared
        if failure is not None:
            raise failure

    def before_train_epoch(self, runner) -> None:
        self._begin_round(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._batch = self._batch or data_batch
        self._begin_round(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if in_epochs(runner):
            return
        length = epoch_length(runner.train_dataloader)
        if length and (runner.iter + 1) % length == 0:  # as often as by epochs
            self._watch.note_growth(runner)
        self._end_round(runner, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        if in_epochs(runner):
            self._watch.note_growth(runner)  # what has grown may yet collapse
            self._end_round(runner, runner.iter)  # already counted here

    def after_train(self, runner) -> None:
        self._validate_if_missing(runner)

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if batch_idx or runner.iter not in self._ends:
            return
        self._batch = self._batch or data_batch  # a resumed run may have seen no other
        self._watch.follow(runner, self._batch)
        graph = self._watch.graph
        if graph and graph.groups:
            self._window = ActivationWindow(
                bare_model(runner), graph.groups, in_training_only=False
            )

    def after_val_epoch(self, runner, metrics=None) -> None:
        if runner.iter not in self._ends:
            return
        values = dict(metrics=dict(metrics or {}))
        window, self._window = self._window, None
        if window is not None:
            scores = joined_scores([window], runner.logger).values()
            window.close()
            values['dead'] = sum(int((score == 0).sum()) for score in scores)
            values['prunable'] = sum(score.numel() for score in scores)
        self._record(runner, runner.iter, values)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        save_growth(runner, checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        load_growth(runner, checkpoint)

    def _begin_round(self, runner) -> None:
        if runner.iter not in self._ends or runner.iter == self._begun:
            return
        self._begun = runner.iter
        self._validate_if_missing(runner)
        if self.reset_optimizer or self.shuffle:
            for optimizer in optimizers_of(runner):
                reset_state_(optimizer)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self._seed + runner.iter)
            for parameter in bare_model(runner).parameters():
                if parameter.requires_grad:
                    shuffle_(parameter, generator=generator)

    def _end_round(self, runner, end_iter: int) -> None:
        if end_iter not in self._ends:
            return
        if self._batch is not None:
            self._watch.follow(runner, self._batch)
        reading = self._watch.read_weights(runner)
        collapsed, channels = reading.counts['collapsed'].total
        loss = runner.message_hub.log_scalars.get('train/loss')
        values = dict(
            loss=None if loss is None else loss.mean(len(runner.train_dataloader)),
            collapsed=collapsed,
            channels=channels,
            gamma_threshold=self._watch.limits.gamma,
            flops_sparsity=reading.values.get(FLOPS),
            weight_sparsity=reading.values.get(WEIGHTS),
        )
        if NOT_GROWN in reading.values:
            values['not_grown'] = reading.values[NOT_GROWN]
        self._record(runner, end_iter, values)

    def _validate_if_missing(self, runner) -> None:
        """A run killed after the checkpoint of a round and before its validation lacks it, and
        so does one that validates at other times."""
        row = self._table.row(runner.iter)
        if row is not None and 'metrics' not in row and runner.val_loop is not None:
            runner.val_loop.run()
            runner.model.train()

    def _record(self, runner, end_iter: int, values: dict) -> None:
        number = self._ends.index(end_iter) + 1
        self._table.record(dict(round=number, iter=end_iter, **values))
        if is_main_process():
            self._table.write()
        scalars = {**values, **values.get('metrics', {})}
        scalars = {f'round/{k}': float(v) for k, v in scalars.items() if isinstance(v, Real)}
        runner.visualizer.add_scalars(scalars, step=number)
