"""Pictures of theory against simulation.

Theorem 1 of the psBN paper, the two random walks of DemP and its MLP (figure 9), and the decay of
a scalar under each optimizer (Mehta, figure 4).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..functional.simulation import Estimate
from ..functional.theory import geometric_rate, geometric_rate_bound, theorem_one_k
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, new_figure, save_png
from .theory_cases import (
    CURVATURE,
    FLOAT,
    MLP,
    NOISE,
    OPTIMIZERS,
    WALK,
    dead_neurons,
    predicted_decay,
    predicted_survival,
    seeded_generator,
    simulated_k,
    simulated_rate,
    simulated_survival,
    small_gradients,
)

_COLOURS = ('#bdbdbd', BLUE, '#6baed6', GREEN, ORANGE, RED, PURPLE)
_SIMULATED = dict(fmt='o', color=ORANGE, label='simulated, 3 standard errors')


def plot_theorem_one(out_path: str | Path, *, num_samples: int) -> None:
    """K(u) with the simulation on it, and how it fails for steps as large as gamma."""
    draws = dict(num_samples=num_samples, generator=seeded_generator())
    figure, left, right = _two_panels()
    u = torch.linspace(-4, 4, 401, **FLOAT)
    left.axhline(0, color=GREY, linewidth=0.8)
    left.fill_between(u, theorem_one_k(u), 0, color=BLUE, alpha=0.1, linewidth=0)
    left.plot(u, theorem_one_k(u), color=BLUE, linewidth=2, label='K(u), as printed')
    points = torch.linspace(-3.5, 3.5, 29, **FLOAT)
    _with_errors(left, points, [simulated_k(points, step=0.02, **draws)], **_SIMULATED)
    _label(
        left,
        'Theorem 1: gradient noise makes a channel less active',
        'u = (beta + alpha) / |gamma|',
        'change of Phi(u) in units of (lr c / gamma)² / 2',
    )
    left.set_ylim(-0.36, 0.16)
    left.legend(frameon=False, fontsize=9, loc='upper right')

    steps = torch.logspace(-2, 0.5, 11, **FLOAT).tolist()
    right.axhline(1, color=GREY, linewidth=1.2, linestyle='--', label='Theorem 1')
    for at, colour in ((-0.5, RED), (0.0, BLUE), (0.5, GREEN)):
        u = torch.tensor([at], **FLOAT)
        found = [simulated_k(u, step=step, **draws) for step in steps]
        predicted = theorem_one_k(u).item()
        style = dict(fmt='o-', color=colour, label=f'u = {at:g}')
        _with_errors(right, steps, found, unit=predicted, **style)
    right.set_xscale('log')
    _label(
        right,
        'It holds while a step is small against gamma',
        'size of a step, lr c / |gamma|',
        'simulated / predicted change',
    )
    right.legend(frameon=False, fontsize=9, loc='lower left')
    save_png(figure, out_path)


def plot_walks(out_path: str | Path, *, num_walks: int) -> None:
    """Survival of the absorbing walk, and the rate of the geometric one."""
    draws = dict(num_walks=num_walks, generator=seeded_generator())
    figure, left, right = _two_panels()
    diffusion, num_steps = WALK['diffusion'], WALK['num_steps']
    time = range(1, num_steps + 1)
    seen = slice(num_steps // 20 - 1, None, num_steps // 20)
    for start, colour in ((0.2, RED), (0.5, ORANGE), (1.0, BLUE)):
        left.plot(time, predicted_survival(start), color=colour, label=f'w0 = {start:g}')
        mean = simulated_survival(start, seen_between_steps=False, **draws).mean
        left.plot(time[seen], mean[seen], 'o', markersize=4, color=colour)
        shifted = predicted_survival(start + 0.5826 * diffusion**0.5)
        left.plot(time, shifted, color=colour, linewidth=1, linestyle=':')
    left.plot([], [], 'o', markersize=4, color=GREY, label='simulated, Gaussian steps')
    left.plot([], [], color=GREY, label='erf(w0 / sqrt(2 eta t))')
    left.plot([], [], color=GREY, linewidth=1, linestyle=':', label='w0 + 0.58 sqrt(eta)')
    left.set(ylim=(0, 1.3), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0])  # room for the legend
    _label(
        left,
        'Absorbing walk: 0 is a trap',
        f'steps t of variance eta = {diffusion:g}',
        'share of walks still alive',
    )
    left.legend(frameon=False, fontsize=8, ncols=2, loc='upper right')

    lrs = torch.linspace(0.01, 0.85, 85, **FLOAT).tolist()
    rates = [geometric_rate(CURVATURE, NOISE, lr=lr) for lr in lrs]
    right.axhline(0, color=GREY, linewidth=0.8)
    right.plot(lrs, rates, color=BLUE, linewidth=2, label='mu = E log(1 - lr (h + zeta))')
    bound = [geometric_rate_bound(CURVATURE, 1.0, lr=lr) for lr in lrs]
    right.plot(lrs, bound, color=GREEN, linestyle='--', label='its bound, DemP equation 15')
    right.plot(lrs, [-lr * CURVATURE for lr in lrs], color=GREY, linestyle=':', label='no noise')
    points = torch.linspace(0.05, 0.85, 17).tolist()
    _with_errors(right, points, [simulated_rate(lr, **draws) for lr in points], **_SIMULATED)
    dying = [rate < 0 for rate in rates]
    right.fill_between(lrs, min(rates), 0, where=dying, color=BLUE, alpha=0.08, linewidth=0)
    note = dict(color=BLUE, fontsize=9, ha='center', va='top')
    right.annotate('dies, though h < 0', (0.7, -0.03), **note)
    right.set_ylim(min(rates), 0.12)
    _label(
        right,
        'Geometric walk: h = -0.1, zeta = -1 or 1',
        'learning rate',
        'growth of log |w| per step',
    )
    right.legend(frameon=False, fontsize=8, loc='lower left')
    save_png(figure, out_path)


def plot_scalar_decay(out_path: str | Path, *, num_steps: int, weight_decay: float) -> None:
    """The weight under each optimizer with L2 and with decoupled decay, of a dead channel
    and with Mehta's small gradients."""
    figure, left, right = _two_panels()
    every = max(1, num_steps // 1000)
    steps = range(0, num_steps + 1, every)
    for axes, title, gradients in (
        (left, 'No gradient: a dead channel', None),
        (right, 'Gradients of 1e-3 for 100 steps, then 1e-5', small_gradients(num_steps)),
    ):
        for name, colour in zip(OPTIMIZERS, _COLOURS):
            for decoupled, style in ((False, '-'), (True, ':')):
                curve = predicted_decay(
                    name,
                    weight_decay=weight_decay,
                    decoupled=decoupled,
                    num_steps=num_steps,
                    gradients=gradients,
                )
                label = None if decoupled else name
                size = [abs(w) for w in curve[::every]]
                width = 4 if name.startswith('SGD') else 1.6  # Adadelta runs on top of it
                axes.plot(steps, size, style, color=colour, linewidth=width, label=label)
        axes.axhline(1e-3, color=GREY, linewidth=1, linestyle='--')
        axes.set(yscale='log', ylim=(1e-5, 1.5))
        _label(axes, title, 'step', f'|w|, weight decay {weight_decay:g}')
    below = dict(textcoords='offset points', fontsize=8, color=INK, ha='right', va='top')
    left.annotate('collapsed below', (num_steps, 1e-3), (-2, -3), **below)
    left.plot([], [], color=GREY, label='L2, in the gradient')
    left.plot([], [], ':', color=GREY, label='WD, decoupled')
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    save_png(figure, out_path)


def plot_dying_mlp(out_path: str | Path, *, num_steps: int) -> None:
    """Dead neurons where only the noise of gradients moves the weights, where Gaussian noise
    does, and under SGD; a colour for each learning rate."""
    figure, grid = new_figure(1, 3, width=10, height=4.4)
    every = max(1, num_steps // 50)
    steps = range(every, num_steps + 1, every)
    panels = {
        'Noise of gradients': {'gradient noise': '-'},
        'Gaussian noise': {'asymmetric noise': '-', 'symmetric noise': '--'},
        'SGD': {'SGD': '-'},
    }
    for axes, (title, regimes) in zip(grid[0], panels.items()):
        for regime, style in regimes.items():
            dead = dead_neurons(regime, num_steps=num_steps, every=every)
            for lr, colour, counts in zip(MLP['lrs'], _COLOURS, dead.T):
                label = f'learning rate {lr:g}' if style == '-' else None
                axes.plot(steps, counts, style, color=colour, label=label)
        _label(axes, title, 'step', 'dead of 400 neurons')
    grid[0][1].plot([], [], '--', color=GREY, label='also of dead neurons')
    grid[0][1].legend(frameon=False, fontsize=8)
    save_png(figure, out_path)


def _two_panels() -> tuple[Figure, Axes, Axes]:
    figure, grid = new_figure(1, 2, width=10, height=4.4)
    return figure, *grid[0]


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set(xlabel=x, ylabel=y)


def _with_errors(
    axes: Axes, x: Sequence[float], found: Sequence[Estimate], *, unit: float = 1.0, **style
) -> None:
    """Means with three standard errors, in a unit."""
    mean = torch.stack([estimate.mean.flatten() for estimate in found]).flatten()
    error = torch.stack([estimate.standard_error.flatten() for estimate in found]).flatten()
    axes.errorbar(x, mean / unit, 3 * error / abs(unit), markersize=4, capsize=2, **style)
