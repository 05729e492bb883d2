"""DemP (Maxwell's Demon at Work): prune a network while it trains."""

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...functional.schedules import Schedule
from ...pruning.sparsity import scale_layers
from ...upstream import resumes
from ..arguments import build, names_its_arguments
from ..checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from ..checkpoints.pruned_structure import saved_by
from ..norms.beta_decay import check_beta_decay
from ..ranks import of_rank_0
from ..runner_parts import bare_model, optimizers_of
from ..wrapper import check_held, check_wrapper, use_compiled_step
from .budget_pruner import BudgetPruner
from .dead_channel_pruner import DeadChannelPruner
from .online_pruner import OnlinePruner
from .settings import (
    BudgetSettings,
    NoiseSettings,
    PenaltySettings,
    PruneSettings,
    ScheduleSettings,
)
from .step_perturbation import StepPerturbation


@HOOKS.register_module()
class DemPHook(Hook):
    """Remove channels while a model trains: those that the loss misses least, down to a budget,
    or those that DemP's penalty and noise have killed.

    With a ``budget`` channels are chosen. Between two cuts the hook sums (dL/dm)^2, m being a gate
    on a channel, from the gradients that training has anyway (:class:`.GateSaliency`); at a cut
    the channels with the least of it go, in the first part of the run, and the rest of the run is
    ordinary finetuning. Everything follows from the length of the run.

    Without a budget the hook is the paper's (DemP, algorithm 1). At every optimizer step, with s
    the schedule's value in [0, 1],

        w <- w - eta * (grad L + s * peak * grad R) + xi,  xi ~ N(0, (s * peak_std)^2),

    R on the normalisation scales, xi on the live channels of the prunable layers. Every
    ``interval`` iterations the channels that were dead on the last ``num_samples`` training
    samples go.

    Removed is physically, in place, from model, optimizer and EMA. The outputs on a probe batch
    must be what they were, or, of live channels, what they are with these masked to 0; else all is
    put back. The plan is part of the checkpoint; resume and test replay it.

    Args:
        penalty: ``kind`` ('lasso' | 'l2'), ``scope`` ('gamma' | 'all'), ``peak``.
        noise: ``peak_std``, a standard deviation, not scaled by the learning rate;
            ``asymmetric``, live channels only.
        schedule: ``type`` ('one_cycle' | 'constant' | 'warmup' | 'cosine'), and
            ``warmup`` and ``end`` as fractions of training.
        prune: ``interval``, ``begin``, ``end``, ``criterion`` ('dead' | 'collapsed' |
            'never_positive'), ``num_samples``, ``eps``, ``gamma_threshold``, ``fold_padding``,
            ``tolerance``, ``on_failure``, ``round_to``, ``allow_live``, ``min_channels``; of these
            ``round_to``, ``min_channels``, ``tolerance`` and ``on_failure`` go with a budget.
        budget: ``flops``, ``params`` or ``latency`` (fractions to be left) or ``latency_ms``;
            ``device``, ``begin``, ``end``, ``cuts``, ``score``, ``timing``, ``reconstruct``.
            Not beside ``penalty``, ``noise`` or ``schedule``.

        What is left out keeps its default (settings.py): DemP's, but for the
        peak and the warmup, which its text does not give.

    Raises:
        ValueError: an unknown key, a value out of range or a setting that a budget makes
            meaningless, when it is built; a model without a prunable channel or, with a penalty,
            without a trainable normalisation scale, a run without a prune event or with too few
            iterations for two cuts, or a budget out of reach, before the first step; layers that
            run in training only and cannot be traced, or leave no channel to prune, after it.
        TypeError: a wrapper or an optimizer that holds copies of the parameters, before the first
            step.
        RuntimeError: an optimizer that calls no step hooks, before the first step.
    """

    prunes_while_training = True
    priority = 'ABOVE_NORMAL'  # before EMAHook copies a checkpoint's weights

    @names_its_arguments
    def __init__(
        self,
        penalty: dict | None = None,
        noise: dict | None = None,
        schedule: dict | None = None,
        prune: dict | None = None,
        budget: dict | None = None,
    ):
        self.penalty = build(PenaltySettings, 'penalty', penalty)
        self.noise = build(NoiseSettings, 'noise', noise)
        self.schedule: Schedule = build(ScheduleSettings, 'schedule', schedule)
        settings = build(PruneSettings, 'prune', prune)
        self.pruner: OnlinePruner
        if budget is None:
            self.pruner = DeadChannelPruner(settings)
        else:
            _refuse_beside_budget(penalty=penalty, noise=noise, schedule=schedule, prune=prune)
            self.pruner = BudgetPruner(
                build(BudgetSettings, 'budget', budget),
                settings,
                free_widths='round_to' not in (prune or {}),
            )
        self._noise_seed: int | None = None
        self._step_hooks: list = []

    def before_run(self, runner) -> None:
        if any(isinstance(hook, PrunedCheckpointHook) for hook in runner.hooks):
            raise ValueError(
                'DemPHook loads and saves pruned checkpoints itself; take '
                'PrunedCheckpointHook out of custom_hooks'
            )

    def before_train(self, runner) -> None:
        check_wrapper(runner, hook='DemPHook')
        check_beta_decay(runner)
        if self._kills:
            self._penalised(runner)
        if self._noise_seed is None:
            self._noise_seed = of_rank_0(runner.seed)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self.pruner.graph is None:
            self.pruner.start(runner, data_batch)
            if self._kills:
                self._perturb_steps(runner)
        self.pruner.before_iteration(runner, data_batch)
        use_compiled_step(runner, not self.pruner.watching)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.pruner.after_iteration(runner, data_batch, outputs)
        if self.pruner.is_due(runner):
            self.pruner.prune(runner, data_batch)
        # shares of the peaks: MMEngine's log shows four decimals, and a noise of 5e-5 as 0.0000
        scalars = {f'{what}_left': share for what, share in self.pruner.progress.left.items()}
        if self._kills:
            scalars['strength'] = self._strength(runner)
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/demp/{name}', value)

    def after_train(self, runner) -> None:
        self.pruner.end(runner)
        for handle in self._step_hooks:
            handle.remove()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self.pruner.structure.save(
            checkpoint, noise_seed=self._noise_seed, pruner=self.pruner.state()
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        saved = saved_by(checkpoint)
        if saved is not None and resumes(runner) and 'pruner' in saved:
            self._go_on_from(saved)
        self.pruner.structure.load(runner, checkpoint)

    def _go_on_from(self, saved: Mapping) -> None:
        """Raises ValueError where another kind of run, or another version, has saved it."""
        began, now = saved['pruner'].get('budget', {}).get('kind'), self.pruner.kind
        if began != now:
            theirs, ours = (f'a budget in {kind}' if kind else 'no budget' for kind in (began, now))
            raise ValueError(
                f'the checkpoint cannot be resumed: the run began with {theirs}, and DemPHook has '
                f'{ours} now; resume with the settings it began with, or start a new run from its '
                'weights with load_from'
            )
        try:
            self._noise_seed = saved['noise_seed']
            self.pruner.restore(saved['pruner'])
        except KeyError as error:
            raise ValueError(
                f'the checkpoint cannot be resumed: its pruning state has no {error}, so it is of '
                'another version of mmpsbn; resume with that one, or start a new run from its '
                'weights with load_from'
            ) from error

    def _strength(self, runner) -> float:
        """Fraction of the peaks of penalty and noise now."""
        return self.schedule(runner.iter, runner.max_iters)

    @property
    def _kills(self) -> bool:
        """Whether penalty and noise are at work; under a budget channels are chosen."""
        return isinstance(self.pruner, DeadChannelPruner)

    def _perturb_steps(self, runner) -> None:
        perturbation = StepPerturbation(
            penalised=self._penalised(runner),
            noisy=self.pruner.parameters(bare_model(runner)),
            penalty=self.penalty,
            noise=self.noise,
            strength=lambda: self._strength(runner),
            step=lambda: runner.iter,
            seed=self._noise_seed,
        )
        self._step_hooks = perturbation.attach(
            optimizers_of(runner), compiled=bool(runner.cfg.get('compile'))
        )

    def _penalised(self, runner) -> list[nn.Parameter]:
        """The trainable parameters the penalty acts on; none, where it has no peak, will do."""
        model = bare_model(runner)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        scales = [f'{name}.weight' for name in scale_layers(model)]
        if self.penalty.peak and not any(name in trainable for name in scales):
            raise ValueError(
                'DemPHook acts on the scales (gamma) of BatchNorm, InstanceNorm and '
                f'GroupNorm layers: {type(model).__name__} has {len(scales)} such '
                'layers, none of them trainable; give it a norm_cfg with '
                'requires_grad=True'
            )
        if self.penalty.scope == 'gamma':
            trainable = {n: trainable[n] for n in scales if n in trainable}
        else:
            trainable = {n: p for n, p in trainable.items() if not n.endswith('bias')}
        check_held(runner, trainable, hook='DemPHook')
        return list(trainable.values())


# What a budget leaves to set of the group ``prune``.
_BESIDE_BUDGET = ('min_channels', 'on_failure', 'round_to', 'tolerance')


def _refuse_beside_budget(prune: dict | None, **groups: dict | None) -> None:
    meaningless = [name for name, values in groups.items() if values is not None]
    meaningless += [f'prune.{name}' for name in prune or {} if name not in _BESIDE_BUDGET]
    if meaningless:
        raise ValueError(
            f'under a budget channels are chosen by what the loss misses, and {meaningless} would '
            'do nothing: leave them out, or the budget'
        )
