"""Training some parameters of a net of random weights: BatchNorm alone, and the like."""

import io
import os

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ...functional.frozen import digest
from ...models.seed_checkpoint import draw_model, frozen_values, pack_seed_checkpoint
from ...models.trained_parts import TrainedParts
from ...upstream import load_from, resumes
from ..arguments import names_its_arguments
from ..files import AtomicLocalBackend
from ..openmmlab import model_cfg_of
from ..ranks import of_rank_0
from ..runner_parts import bare_model, optimizers_of, pruning_hook, unwrapped_model


@HOOKS.register_module()
class FreezeHook(Hook):
    """Train a part of the parameters; the others must be the same to the bit in the end.

    BatchNorm alone is ``FreezeHook(train=['norm'])``: gamma and beta of every normalisation
    layer. Running statistics are buffers and follow the data as ever. The variants of Frankle
    et al. for a classifier of mmpretrain ::

        train=['norm', 'head.fc']                            # + output layer (figure 2)
        train=['norm', 'head.fc', 'downsample']              # + shortcuts (appendix G)
        train=['head.fc']                                    # output layer only
        train=[], per_channel=2                              # two random weights per channel
        freeze=['norm']                                      # gamma and beta disabled (figure 1)

    With ``seed``, a run that begins draws all weights anew from it, so that the frozen ones
    need not be stored: after training, ``from_seed.pth`` in the work folder holds the seed, the
    trained values and the buffers, and ``tools/from_seed.py`` of a clone makes the full checkpoint.

    Args:
        train, freeze: what is trained, or all but what; one of them. ``'norm'`` or pieces of
            parameter names, see :class:`.TrainedParts`.
        per_channel: with ``train``, so many random weights of each output channel of every
            convolution besides, >= 1; drawn from ``seed``, or else from the run's.
        seed: an int >= 0, or None for weights from anywhere else.

    Raises:
        ValueError: an argument out of range. Before the first step: a part that the model
            lacks, nothing trained or nothing frozen; DemPHook in the same run; with ``seed``, a
            config without ``model``, ``load_from``, or a resumed run whose frozen weights are not
            the seed's.
        RuntimeError: after training, a frozen tensor has moved; names it.
    """

    priority = 'VERY_HIGH'  # what others see of the model in before_run is frozen already

    @names_its_arguments
    def __init__(
        self,
        train: list[str] | None = None,
        freeze: list[str] | None = None,
        per_channel: int | None = None,
        seed: int | None = None,
    ):
        self.parts = TrainedParts(train, freeze, per_channel)
        if seed is not None and not (type(seed) is int and seed >= 0):
            raise ValueError(f'seed must be None or an int >= 0, got {seed!r}')
        self.seed = seed
        self._frozen: dict[str, Tensor | None] = {}
        self._digests: dict[str, str] = {}
        self._handles: list = []

    def before_run(self, runner) -> None:
        if pruning_hook(runner) is not None:
            raise ValueError(
                'FreezeHook keeps frozen tensors to the bit, and DemPHook cuts them: train with '
                'one of the two'
            )
        with unwrapped_model(runner, who='FreezeHook') as model:  # DDP must not wait for the frozen
            frozen = self.parts.frozen(model, seed=0)
            for name, parameter in model.named_parameters():
                if frozen.get(name, True) is None:
                    parameter.requires_grad = False

    def before_train(self, runner) -> None:
        model = bare_model(runner)
        if self.seed is not None:
            self._draw(runner, model)
        mask_seed = of_rank_0(runner.seed) if self.seed is None else self.seed
        self._frozen = self.parts.frozen(model, mask_seed)
        self._digests = self._digests_of(model)
        self._hold(model, optimizers_of(runner))

    def after_train(self, runner) -> None:
        model = bare_model(runner)
        for handle in self._handles:
            handle.remove()
        now = self._digests_of(model)
        moved = [name for name in now if now[name] != self._digests[name]]
        if moved:
            raise RuntimeError(
                f'{len(moved)} frozen tensors have moved in training, {moved[0]} first: nothing '
                'but the optimizer of this run may write into them'
            )
        runner.logger.info(f'{len(now)} frozen tensors are the same to the bit')
        if self.seed is not None and is_main_process():
            checkpoint = pack_seed_checkpoint(
                model, parts=self.parts, seed=self.seed, frozen=self._frozen
            )
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            path = os.path.join(runner.work_dir, 'from_seed.pth')
            AtomicLocalBackend().put(buffer.getvalue(), path)

    def _digests_of(self, model: nn.Module) -> dict[str, str]:
        values = frozen_values(model, self._frozen)
        return {name: digest([value]) for name, value in values.items()}

    def _draw(self, runner, model: nn.Module) -> None:
        """The seed's weights into the model; or, where they come from a checkpoint of this run,
        a check that they are the seed's."""
        if load_from(runner) is not None and not resumes(runner):
            raise ValueError(
                f'FreezeHook(seed={self.seed}) draws all weights anew, and load_from='
                f'{load_from(runner)!r} would be lost; leave one of them out'
            )
        drawn = draw_model(model_cfg_of(runner.cfg), self.seed)
        if not runner.iter:
            model.load_state_dict(drawn.state_dict())
            return
        frozen = self.parts.frozen(drawn, self.seed)
        ours = frozen_values(model, frozen)
        for name, value in frozen_values(drawn, frozen).items():
            if digest([ours[name]]) != digest([value]):
                raise ValueError(
                    f'{name} of the resumed run is not what seed={self.seed} draws: resume with '
                    "that run's seed and torch"
                )

    def _hold(self, model: nn.Module, optimizers) -> None:
        """Of tensors that are trained in part, keep the rest: no gradient there, which would
        count in gradient clipping, and after each step, which also decays, the old values."""
        held = {}
        parameters = dict(model.named_parameters())
        for name, mask in self._frozen.items():
            if mask is not None:
                parameter = parameters[name]
                held[parameter] = mask, parameter.detach().clone()
                self._handles.append(
                    parameter.register_hook(lambda grad, mask=mask: grad.where(mask, 0))
                )

        @torch.no_grad()
        def put_back(optimizer, *_) -> None:
            for group in optimizer.param_groups:
                for parameter in group['params']:
                    if parameter in held:
                        mask, values = held[parameter]
                        parameter.copy_(parameter.where(mask, values))

        if held:
            for optimizer in optimizers:
                self._handles.append(optimizer.register_step_post_hook(put_back))
