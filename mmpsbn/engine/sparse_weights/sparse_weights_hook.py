"""Unstructured sparsity while a model trains: magnitude, saliency, SET and RigL."""

import math
from dataclasses import asdict, dataclass

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...functional.checks import is_number
from ...functional.schedules import steps_of
from ...functional.sparse_weights import DISTRIBUTIONS, DYNAMIC_METHODS, GRADUAL_METHODS
from ...upstream import resumes
from ..arguments import (
    build,
    names_its_arguments,
    require,
    require_count,
    require_one_of,
    require_window,
)
from ..input_size import count_at_one_size
from ..openmmlab import crop, example_inputs
from ..ranks import of_rank_0
from ..rounds.rounds_hook import RoundsHook
from ..runner_parts import averaged_models_of, bare_model, optimizers_of, pruning_hook
from ..wrapper import check_held, check_wrapper, only_optimizer
from .masks import WeightMasks, layer_weights, maskable_weights

METHODS = GRADUAL_METHODS + DYNAMIC_METHODS
STATE_KEY = 'mmpsbn_sparse_weights'  # of a checkpoint's meta


@dataclass(frozen=True)
class UpdateSettings:
    """When masks change: every ``interval`` iterations between two fractions of training.

    By default ``magnitude`` and ``saliency`` do as in DemP's authors' code
    (SimonDufLab/Maxwell_demon, source/jaxpruner_baseline.py), ``set`` and ``rigl`` as in RigL's
    paper (1911.11134, section 4.1).
    """

    interval: int
    begin: float
    end: float

    def __post_init__(self):
        require_count('updates interval', self.interval)
        require_window('updates', self.begin, self.end)

    def last_until(self, step: int, total_steps: int) -> int | None:
        """Iterations done at the last update that is planned until ``step`` of them, the first one
        being at least 1; None if there is none."""
        least = max(1, math.ceil(steps_of(self.begin, total_steps)))
        most = min(step, math.floor(steps_of(self.end, total_steps)))
        planned = most // self.interval * self.interval
        return planned if planned >= least else None

    def last(self, total_steps: int) -> int | None:
        """That of a whole run: before its last step ``total_steps`` - 1 iterations are done."""
        return self.last_until(total_steps - 1, total_steps)

    def progress(self, step: int, total_steps: int) -> float:
        """The part of the time between ``begin`` and ``end`` that is over."""
        begin, end = (steps_of(share, total_steps) for share in (self.begin, self.end))
        return (step - begin) / (end - begin)


_UPDATES = {
    **dict.fromkeys(GRADUAL_METHODS, dict(interval=500, begin=0.3, end=0.8)),
    **dict.fromkeys(DYNAMIC_METHODS, dict(interval=100, begin=0.0, end=0.75)),
}


@HOOKS.register_module()
class SparseWeightsHook(Hook):
    """Hold a part of the weights at 0 while a model trains, to compare with.

    Masks lie on the weights of convolutions and linear layers. Masked weights are 0 after each
    step, and so are their gradients at it and what the optimizer remembers of them. The tensors
    keep their shapes, so that nothing gets faster.

    * ``'magnitude'``, ``'saliency'``: dense at first; each update keeps the weights with the
      largest |w| or |w . dL/dw| of each layer, 1 - s (1 - (1 - p)^3) of it
      with p the part of the updates that is over (1710.01878; JaxPruner, 2304.14082).
    * ``'set'`` (1707.04780), ``'rigl'`` (1911.11134): as sparse from the first step on, at
      random places. Each update drops the drop_fraction / 2 (1 + cos(pi p)) of the kept weights
      with the smallest |w|, and grows as many, at random or where |dL/dw| is largest. They start
      at 0, but for those that were dropped just now, which keep their value. In such an iteration
      the optimizer takes no step, as in RigL's algorithm 1.

    An update happens before the first optimizer step at or after its iteration, from weights and
    gradients as they are there: accumulated, clipped, averaged over ranks. In the log
    ``sparse/macs_left`` and ``sparse/weights_left`` are shares of the dense model, after the
    iteration, and ``sparse/dense_gradients`` is 1 where RigL needs those of all weights. MACs are
    counted in a pass with ``mode='tensor'``; where the model has none, ``macs_left`` is left out.

    Args:
        method: one of METHODS.
        sparsity: the share of the maskable weights that is 0 in the end, in (0, 1).
        distribution: over the layers, ``'uniform'`` or ``'erk'`` (:func:`.densities`).
        updates: ``interval`` in iterations, ``begin`` and ``end`` in fractions of training.
        drop_fraction: of ``'set'`` and ``'rigl'``, in (0, 1).
        dense: pieces of the names of weights that stay dense; by default the first one does.

    Raises:
        ValueError: an argument out of range. Before the first step: names that the model lacks, a
            run without an update, DemPHook or a shuffling RoundsHook in the same run, or a resumed
            run with other weights, settings or iterations than it began with.
        TypeError: before the first step, several optimizers, one that does not hold the weights, or
            a wrapper in which its steps are not seen.
        RuntimeError: before the first step, an optimizer that calls no step hooks.
    """

    # averages of the weights (EMAHook, 50) are masked after they are taken, and before the log is
    # written (LoggerHook, 60)
    priority = 55

    @names_its_arguments
    def __init__(
        self,
        method: str,
        sparsity: float,
        distribution: str = 'uniform',
        updates: dict | None = None,
        drop_fraction: float = 0.3,
        dense: list[str] | None = None,
    ):
        require_one_of('method', method, METHODS)
        for name, value in (('sparsity', sparsity), ('drop_fraction', drop_fraction)):
            require(
                is_number(value) and 0 < value < 1,
                f'{name} must be a number in (0, 1), got {value!r}',
            )
        require_one_of('distribution', distribution, DISTRIBUTIONS)
        require(
            dense is None or isinstance(dense, (list, tuple)),
            f'dense must be None or a list of pieces of names, got {dense!r}',
        )
        require(
            updates is None or isinstance(updates, dict),
            f'updates must be a dict of interval, begin and end, got {updates!r}',
        )
        self.updates = build(UpdateSettings, 'updates', _UPDATES[method] | (updates or {}))
        self.masks: WeightMasks | None = None
        self._settings = dict(
            method=method,
            sparsity=sparsity,
            distribution=distribution,
            drop_fraction=drop_fraction,
        )
        self._dense = dense
        self._updated = 0  # iterations done at the last update that was planned
        self._saved: dict | None = None  # of a resumed run, until there are masks
        self._dense_gradients = False  # in this iteration
        self._positions: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._left: dict[str, float] = {}
        self._handles: list = []

    def before_train(self, runner) -> None:
        optimizer, weights = self._checked(runner)
        self._updated = 0
        self._run = self._settings | asdict(self.updates) | dict(max_iters=runner.max_iters)
        seed = of_rank_0(runner.seed) if self._saved is None else self._saved['seed']
        self.masks = WeightMasks(weights, seed=seed, **self._settings)
        if self._saved is not None:
            self._check_began_alike(self._saved['run'])
            self.masks.restore(self._saved['masks'])
            self._updated = self._saved['updated']
        self._seed, self._saved, self._sizes = seed, None, {}
        self.masks.hold_weights()
        hidden = torch.compiler.disable if runner.cfg.get('compile') else lambda hook: hook
        self._handles = [
            optimizer.register_step_pre_hook(hidden(lambda *_: self._before_step(runner))),
            optimizer.register_step_post_hook(hidden(lambda *_: self.masks.hold_weights())),
        ]

    def _check_began_alike(self, theirs: dict) -> None:
        """Masks made for another sparsity would keep it, and those of another course would jump."""
        ours = {key: value for key, value in self._run.items() if theirs.get(key) != value}
        if ours:
            began = {key: theirs.get(key) for key in ours}
            raise ValueError(
                f'the checkpoint cannot be resumed: SparseWeightsHook began with {began}, and this '
                f'run has {ours}; resume with the settings it began with, or start a new run from '
                'its weights with load_from'
            )

    def _checked(self, runner):
        """The optimizer and the weights."""
        if pruning_hook(runner) is not None:
            raise ValueError(
                'SparseWeightsHook masks weights of fixed shapes, and DemPHook changes them: '
                'train with one of the two'
            )
        if any(isinstance(hook, RoundsHook) and hook.shuffle for hook in runner.hooks):
            raise ValueError(
                'SparseWeightsHook masks places, and RoundsHook(shuffle=True) moves the weights to '
                'others: train with one of the two'
            )
        check_wrapper(runner, hook='SparseWeightsHook')
        optimizer = only_optimizer(runner, hook='SparseWeightsHook')
        weights = maskable_weights(bare_model(runner), self._dense)
        check_held(runner, weights, hook='SparseWeightsHook')
        if self.updates.last(runner.max_iters) is None:
            raise ValueError(
                f'{self.updates}: a run of {runner.max_iters} iterations has no update; make the '
                'interval shorter'
            )
        return optimizer, weights

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._dense_gradients = False
        if not self._sizes:
            self._count(runner, data_batch)

    def _count(self, runner, data_batch: dict) -> None:
        model = bare_model(runner)
        found: dict[str, float] = {}
        try:
            image = crop(example_inputs(model, data_batch, 1))
            found, _ = count_at_one_size(model, runner.cfg, image)
        except Exception as error:  # whatever a model raises that has no mode='tensor'
            runner.logger.warning(
                "sparse/macs_left is left out: MACs are counted in model(inputs, mode='tensor'), "
                f'which raised {type(error).__name__}: {error}'
            )
        found = of_rank_0(found)  # batches may differ in size
        own = dict(model.named_parameters(remove_duplicate=False))
        self._positions = {name: n for name, n in found.items() if name in own}
        names = self._positions or layer_weights(model)
        self._sizes = {name: own[name].numel() for name in names}
        self._log(runner)

    def _log(self, runner) -> None:
        self._left = self.masks.left(self._positions, self._sizes)
        shares = ', '.join(f'{share:.1%} of the {what}' for what, share in self._left.items())
        runner.logger.info(
            f'{self._settings["method"]}: {shares} are left after {runner.iter} iterations'
        )

    def _before_step(self, runner) -> None:
        iters = runner.max_iters
        planned = self.updates.last_until(runner.iter, iters)
        if planned is not None and planned > self._updated:
            self._updated = planned
            method = self._settings['method']
            progress = self.updates.progress(planned, iters)
            if method in GRADUAL_METHODS and planned == self.updates.last(iters):
                progress = 1.0  # what the interval leaves of the end
            self.masks.update(progress, planned)
            self._dense_gradients = method == 'rigl'
            if method in GRADUAL_METHODS:
                self._log(runner)
            else:  # an optimizer moves nothing that has no gradient
                for parameter in bare_model(runner).parameters():
                    parameter.grad = None
        self.masks.hold_gradients(optimizers_of(runner)[0])

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for average in averaged_models_of(runner):
            self.masks.hold_weights_of(average)
        scalars = {f'{what}_left': share for what, share in self._left.items()}
        scalars['dense_gradients'] = float(self._dense_gradients)
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/sparse/{name}', value)

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta'][STATE_KEY] = dict(
            masks=self.masks.state(), updated=self._updated, seed=self._seed, run=self._run
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not resumes(runner):
            return
        self._saved = (checkpoint.get('meta') or {}).get(STATE_KEY)
        if self._saved is None:
            raise ValueError(
                'the checkpoint cannot be resumed: it has no masks; resume without '
                'SparseWeightsHook, or start a new run from its weights with load_from'
            )
