"""DemP (Maxwell's Demon at Work): prune a network while it trains."""

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...functional.schedules import Schedule
from ...layers import calls_step_hooks
from ...pruning.sparsity import scale_layers
from ...upstream import resumes
from ..arguments import build, names_its_arguments
from ..checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from ..checkpoints.pruned_structure import saved_by
from ..norms.beta_decay import check_beta_decay
from ..runner_parts import bare_model, groups_by_parameter, optimizers_of
from .online_pruner import OnlinePruner
from .saved_state import check_saved_state
from .settings import (
    BudgetSettings,
    NoiseSettings,
    PenaltySettings,
    PruneSettings,
    ScheduleSettings,
)
from .step_perturbation import StepPerturbation
from .wrapper import check_wrapper, use_compiled_step


@HOOKS.register_module()
class DemPHook(Hook):
    """Kill channels with a scheduled penalty and noise, and remove the dead ones.

    At every optimizer step, with s the schedule's value in [0, 1],

        w <- w - eta * (grad L + s * peak * grad R) + xi,  xi ~ N(0, (s * peak_std)^2),

    R on the normalisation scales, xi on the live channels of the prunable layers (DemP
    algorithm 1). Every ``interval`` iterations the channels that were dead on the last
    ``num_samples`` training samples are removed physically, in place, from model,
    optimizer and EMA; the outputs on a probe batch must stay what they were, or all is
    put back. The plan is part of the checkpoint; resume and test replay it.

    Args:
        penalty: ``kind`` ('lasso' | 'l2'), ``scope`` ('gamma' | 'all'), ``peak``.
        noise: ``peak_std``, a standard deviation, not scaled by the learning rate;
            ``asymmetric``, live channels only.
        schedule: ``type`` ('one_cycle' | 'constant' | 'warmup' | 'cosine'), and
            ``warmup`` and ``end`` as fractions of training.
        prune: ``interval``, ``begin``, ``end``, ``criterion`` ('dead' | 'collapsed'),
            ``num_samples``, ``eps``, ``gamma_threshold``, ``fold_padding``, ``tolerance``,
            ``on_failure``, ``round_to``, ``allow_live``, ``min_channels``.
        budget: ``flops`` or ``params`` (fractions to be left) or ``latency_ms`` and
            ``device``: a closed loop steers the penalty so that the target is met by the end
            of the pruning window, and then penalty, noise and events stop.

        What is left out keeps its default (settings.py; DemP's own settings).

    Raises:
        ValueError: an unknown key or a value out of range, when it is built; a model without a
            prunable channel or, with a penalty, without a trainable normalisation scale, or a run
            without a prune event, before the first step; layers that run in training only and
            cannot be traced, or leave no channel to prune, after it.
        TypeError: a wrapper or an optimizer that holds copies of the
            parameters, before the first step.
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
        self.pruner = OnlinePruner(
            build(PruneSettings, 'prune', prune),
            None if budget is None else build(BudgetSettings, 'budget', budget),
        )
        self._noise_seed: int | None = None
        self._perturbation: StepPerturbation | None = None
        self._steps_at_event = 0
        self._step_hooks: list = []

    def before_run(self, runner) -> None:
        if any(isinstance(hook, PrunedCheckpointHook) for hook in runner.hooks):
            raise ValueError(
                'DemPHook loads and saves pruned checkpoints itself; take '
                'PrunedCheckpointHook out of custom_hooks'
            )

    def before_train(self, runner) -> None:
        check_wrapper(runner)
        check_beta_decay(runner)
        self._penalised(runner)
        if self._noise_seed is None:
            seed = [runner.seed]
            broadcast_object_list(seed)  # diff_rank_seed gives each rank its own
            self._noise_seed = seed[0]

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self.pruner.graph is None:
            self.pruner.start(runner, data_batch)
            self._perturb_steps(runner)
        self.pruner.before_iteration(runner, data_batch)
        use_compiled_step(runner, not self.pruner.watching)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.pruner.after_iteration(runner, data_batch)
        if self.pruner.is_due(runner):
            self._check_steps(runner)
            self.pruner.prune(runner, data_batch)
        # shares of the peaks: MMEngine's log shows four decimals, and a noise of 5e-5 as 0.0000
        left = {f'{what}_left': share for what, share in self.pruner.progress.left.items()}
        scalars = dict(strength=self._strength(runner), **left)
        if self.pruner.budget is not None:
            scalars['penalty_scale'] = self.pruner.budget.scale
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/demp/{name}', value)

    def after_train(self, runner) -> None:
        self.pruner.close()
        for handle in self._step_hooks:
            handle.remove()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self.pruner.structure.save(
            checkpoint, noise_seed=self._noise_seed, pruner=self.pruner.state()
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        saved = saved_by(checkpoint)
        goes_on = saved is not None and resumes(runner) and 'pruner' in saved
        if goes_on:
            check_saved_state(saved)
        self.pruner.structure.load(runner, checkpoint)
        if goes_on:
            self._noise_seed = saved['noise_seed']
            self.pruner.restore(saved['pruner'])

    def _strength(self, runner) -> float:
        """Fraction of the peaks of penalty and noise now."""
        return 0.0 if self.pruner.finished else self.schedule(runner.iter, runner.max_iters)

    def _penalty_scale(self) -> float:
        return 1.0 if self.pruner.budget is None else self.pruner.budget.scale

    def _check_steps(self, runner) -> None:
        steps, self._steps_at_event = self._steps_at_event, self._perturbation.steps
        if self._steps_at_event > steps:
            return
        if not all(map(calls_step_hooks, optimizers_of(runner))):
            raise RuntimeError(
                'no step hook of the optimizer has run, so penalty and noise did not act: '
                'torch 2.1 switches these hooks off for the process once torch.compile '
                'was used in it; train in a process without it'
            )
        runner.logger.warning(
            f'iteration {runner.iter + 1}: the optimizer has taken no step since the last prune '
            'event, or since the start: gradients are accumulated over more iterations, or AMP '
            'skips its steps'
        )

    def _perturb_steps(self, runner) -> None:
        self._perturbation = StepPerturbation(
            penalised=self._penalised(runner),
            noisy=self.pruner.parameters(bare_model(runner)),
            penalty=self.penalty,
            noise=self.noise,
            strength=lambda: self._strength(runner),
            penalty_scale=self._penalty_scale,
            step=lambda: runner.iter,
            seed=self._noise_seed,
        )
        self._step_hooks = self._perturbation.attach(
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
        held = groups_by_parameter(optimizers_of(runner))
        for name, parameter in trainable.items():
            if parameter not in held:
                raise TypeError(
                    f'{name} is trainable but not in the optimizer: DemPHook needs an '
                    'optimizer on the parameters themselves, without Apex master '
                    'weights or other copies'
                )
        return list(trainable.values())
