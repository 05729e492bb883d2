"""Penalty and noise at the optimizer step itself."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...functional.perturbation import (
    add_gaussian_noise_,
    add_penalty_gradient_,
    live_channel_mask,
)
from .settings import NoiseSettings, PenaltySettings

# Distance between the noise streams of consecutive steps; more optimizers than this
# share no run.
_STREAMS_PER_STEP = 1000


class StepPerturbation:
    """w <- w - eta * (grad L + grad R) + xi, once per real optimizer step.

    As step hooks of the optimizer it acts after gradient clipping and AMP unscaling,
    once under gradient accumulation, and not on a step that AMP skips. The noise of a
    step is a function of the seed and the step alone: the same on every rank and after
    a resume.

    Args:
        penalised: parameters.
        noisy: parameter -> the dimension of its channels.
        strength: () -> fraction of the peaks now, in [0, 1].
        step: () -> index of the current training iteration.
        seed: the same on every rank.
    """

    def __init__(
        self,
        *,
        penalised: list[nn.Parameter],
        noisy: dict[nn.Parameter, int],
        penalty: PenaltySettings,
        noise: NoiseSettings,
        strength: Callable[[], float],
        step: Callable[[], int],
        seed: int,
    ):
        self._penalised = penalised if penalty.peak > 0 else []
        self._noisy = noisy if noise.peak_std > 0 else {}
        self._penalty = penalty
        self._noise = noise
        self._strength = strength
        self._step = step
        self._seed = seed
        self._live: dict[nn.Parameter, Tensor | None] = {}

    def attach(self, optimizers: Iterable[Optimizer], compiled: bool = False) -> list:
        """Register on optimizers; returns the handles that take it off again.

        Args:
            compiled: torch.compile sees the steps. It would compile anew at each one, for
                the strength changes.
        """
        hidden = torch.compiler.disable if compiled else lambda hook: hook
        handles = []
        for stream, optimizer in enumerate(optimizers):
            owned = {p for group in optimizer.param_groups for p in group['params']}
            penalised = [p for p in self._penalised if p in owned]
            noisy = [p for p in self._noisy if p in owned]

            def before(*_, penalised=penalised, noisy=noisy) -> None:
                self._before_step(penalised, noisy)

            def after(*_, noisy=noisy, stream=stream) -> None:
                self._after_step(noisy, stream)

            handles.append(optimizer.register_step_pre_hook(hidden(before)))
            handles.append(optimizer.register_step_post_hook(hidden(after)))
        return handles

    @torch.no_grad()
    def _before_step(self, penalised, noisy) -> None:
        strength = self._strength()
        if strength == 0:
            return
        # who is alive is read off the loss gradient, before the penalty joins it
        self._live = {
            p: live_channel_mask(p.grad, channel_dim=self._noisy[p])
            if self._noise.asymmetric
            else None
            for p in noisy
            if p.grad is not None
        }
        penalty = strength * self._penalty.peak
        for p in penalised:
            if p.grad is not None:
                add_penalty_gradient_(p.grad, p, kind=self._penalty.kind, strength=penalty)

    @torch.no_grad()
    def _after_step(self, noisy, stream: int) -> None:
        strength = self._strength()
        live, self._live = self._live, {}
        if strength == 0 or not live:
            return
        generator = torch.Generator(next(iter(live)).device)
        generator.manual_seed(self._seed + self._step() * _STREAMS_PER_STEP + stream)
        for p in noisy:
            if p in live:
                add_gaussian_noise_(
                    p,
                    std=strength * self._noise.peak_std,
                    live_mask=live[p],
                    channel_dim=self._noisy[p],
                    generator=generator,
                )
