"""Snapshot ensembles: the nets at the ends of the last rounds vote with their probabilities."""

import copy
import json
import os
from collections.abc import Sequence

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader

from ..arguments import names_its_arguments, require_count
from ..files import AtomicLocalBackend, atomic_backend_args
from ..runner_parts import bare_model, check_replaceable, in_epochs, pruning_hook
from .round_ends import round_ends


@torch.no_grad()
def predict_as_ensemble(members: Sequence[BaseModel], data_batch: dict) -> list:
    """Class probabilities p = mean_m softmax(f_m(x)), and the class of the largest.

    Args:
        members: classifiers whose predictions are mmpretrain's: data samples with
            ``pred_score``, shape (classes,).
        data_batch: as the data loader gives it.

    Returns:
        One data sample for each picture, with ``pred_score`` p and ``pred_label``.

    Raises:
        TypeError: a prediction without ``pred_score``.

    Source: Huang et al., Snapshot Ensembles, arXiv 1704.00109, section 3.
    """
    scores = []
    for member in members:
        samples = member.val_step(data_batch)
        # taken before the next member writes into the same samples
        scores.append(_probabilities(samples))
    for sample, mean in zip(samples, torch.stack(scores).mean(0)):
        sample.set_pred_score(mean).set_pred_label(mean.argmax())
    return samples


def _probabilities(samples: Sequence) -> torch.Tensor:
    if not all(hasattr(sample, 'pred_score') for sample in samples):
        raise TypeError(
            'a snapshot ensemble averages class probabilities, the pred_score of '
            f"mmpretrain's classifiers; got predictions of type {type(samples[0]).__name__}"
        )
    return torch.stack([sample.pred_score for sample in samples])


@HOOKS.register_module()
class SnapshotEnsembleHook(Hook):
    """Keep the weights at the end of each round, evaluate the last ones together at the end
    (psBN paper section 5.2 and table 1: 5 rounds in 200 epochs, the last 3).

    The rounds are those of the learning rate's restarts, as for ``RoundsHook``. Writes
    ``round_1.pth``, ... into the work folder, ordinary checkpoints without the optimizer; after
    training ``ensemble.json`` with the ``snapshots`` and the ``metrics`` of the run's own
    validation, which also go to the visualizer as ``ensemble/...``. The members are in memory
    together, so that the data are read once.

    Args:
        num_snapshots: of the last rounds, averaged; >= 1.

    Raises:
        ValueError: an argument out of range. Before the first step: as ``RoundsHook``; fewer
            rounds than snapshots; no validation; DemPHook.
        FileNotFoundError: a resumed run lacks the snapshot of a round that is over.
        TypeError: a wrapper that holds the weights in another form (FSDP), before the first step;
            predictions without class probabilities, at the first validation.
    """

    # after the buffers are averaged over the ranks and before the checkpoint is saved: who
    # resumes from that has the snapshot
    priority = 'LOW'

    @names_its_arguments
    def __init__(self, num_snapshots: int = 3):
        require_count('num_snapshots', num_snapshots)
        self.num_snapshots = num_snapshots
        self._ends: list[int] = []  # in iterations

    def before_train(self, runner) -> None:
        check_replaceable(runner.model, who='SnapshotEnsembleHook')
        self._ends = round_ends(runner)
        if len(self._ends) < self.num_snapshots:
            raise ValueError(
                f'num_snapshots={self.num_snapshots} needs as many rounds, '
                f'CosineRestartLR has {len(self._ends)}'
            )
        if runner.val_loop is None:
            raise ValueError(
                'SnapshotEnsembleHook evaluates with val_dataloader and val_evaluator; this run '
                'has none'
            )
        if pruning_hook(runner) is not None:
            raise ValueError(
                'DemPHook prunes while training, so that snapshots have different shapes; take '
                'it or SnapshotEnsembleHook out of custom_hooks'
            )
        for path, end in list(zip(self._paths(runner), self._ends))[-self.num_snapshots :]:
            if end <= runner.iter and not os.path.exists(path):
                raise FileNotFoundError(
                    f'{path} is missing: resume in the work folder that has the snapshots of the '
                    'rounds that are over'
                )

    def after_train_epoch(self, runner) -> None:
        if in_epochs(runner):
            self._save(runner, runner.iter)  # already counted here

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not in_epochs(runner):
            self._save(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        _probabilities(outputs)  # not only when all is trained

    def after_train(self, runner) -> None:
        if runner.iter < self._ends[-1]:
            runner.logger.warning(
                f'no ensemble: training stopped at iteration {runner.iter}, the last round ends at '
                f'{self._ends[-1]}'
            )
            return
        barrier()  # the main process has written
        paths = self._paths(runner)[-self.num_snapshots :]
        members = [self._member(runner, path) for path in paths]
        batches, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
        for data_batch in batches:
            evaluator.process(predict_as_ensemble(members, data_batch), data_batch)
        metrics = evaluator.evaluate(len(batches.dataset))
        metrics = {key: float(value) for key, value in metrics.items()}
        runner.visualizer.add_scalars(
            {f'ensemble/{k}': v for k, v in metrics.items()}, step=runner.iter
        )
        runner.logger.info(f'ensemble of {len(members)} snapshots: {metrics}')
        if is_main_process():
            record = dict(snapshots=[os.path.basename(path) for path in paths], metrics=metrics)
            path = os.path.join(runner.work_dir, 'ensemble.json')
            AtomicLocalBackend().put(json.dumps(record, indent=1).encode(), path)

    def _paths(self, runner) -> list[str]:
        numbers = range(1, len(self._ends) + 1)
        return [os.path.join(runner.work_dir, f'round_{number}.pth') for number in numbers]

    def _save(self, runner, end_iter: int) -> None:
        if end_iter in self._ends:
            runner.save_checkpoint(
                runner.work_dir,
                f'round_{self._ends.index(end_iter) + 1}.pth',
                save_optimizer=False,
                save_param_scheduler=False,
                by_epoch=in_epochs(runner),
                backend_args=atomic_backend_args(),
            )

    def _member(self, runner, path: str) -> BaseModel:
        member = copy.deepcopy(bare_model(runner))
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        member.load_state_dict(checkpoint['state_dict'])
        return member.eval()
