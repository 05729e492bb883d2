"""Pictures of theory against simulation.

Theorem 1 of the psBN paper, the two random walks of DemP, and the decay of a scalar under
each optimizer (Mehta, figure 4).
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from ..functional.theory import geometric_rate, geometric_rate_bound, theorem_one_k
from .plots import _BLUE, _DPI, _GREEN, _GREY, _ORANGE, _RED, _save, _style
from .theory_cases import (
    CURVATURE,
    FLOAT,
    NOISE,
    OPTIMIZERS,
    WALK,
    predicted_decay,
    predicted_survival,
    seeded_generator,
    simulated_k,
    simulated_rate,
    simulated_survival,
    small_gradients,
)

_COLOURS = ('#bdbdbd', _BLUE, '#6baed6', _GREEN, _ORANGE, _RED, '#8e5bb5')


def plot_theorem_one(out_path: str | Path, *, num_samples: int) -> None:
    """K(u) with the simulation on it, and how it fails for steps as large as gamma."""
    generator = seeded_generator()
    figure, (left, right) = _two_panels()
    u = torch.linspace(-4, 4, 401, **FLOAT)
    left.axhline(0, color=_GREY, linewidth=0.8)
    left.fill_between(u, theorem_one_k(u), 0, color=_BLUE, alpha=0.1, linewidth=0)
    left.plot(u, theorem_one_k(u), color=_BLUE, linewidth=2, label='K(u), as printed')
    points = torch.linspace(-3.5, 3.5, 29, **FLOAT)
    mean, error = simulated_k(points, step=0.02, num_samples=num_samples, generator=generator)
    left.errorbar(
        points,
        mean,
        3 * error,
        fmt='o',
        markersize=4,
        color=_ORANGE,
        capsize=2,
        label='simulated, 3 standard errors',
    )
    left.set_xlabel('u = (beta + alpha) / |gamma|')
    left.set_ylabel('change of Phi(u) in units of (lr c / gamma)² / 2')
    left.set_title('Theorem 1: gradient noise makes a channel less active', fontsize=11)
    left.set_ylim(-0.36, 0.16)
    left.legend(frameon=False, fontsize=9, loc='upper right')

    steps = torch.logspace(-2, 0.5, 11, **FLOAT).tolist()
    right.axhline(1, color=_GREY, linewidth=1.2, linestyle='--', label='Theorem 1')
    for at, colour in ((-0.5, _RED), (0.0, _BLUE), (0.5, _GREEN)):
        u = torch.tensor([at], **FLOAT)
        result = [
            simulated_k(u, step=step, num_samples=num_samples, generator=generator)
            for step in steps
        ]
        k = theorem_one_k(u).item()
        ratio = [r.mean.item() / k for r in result]
        error = [3 * r.standard_error.item() / abs(k) for r in result]
        right.errorbar(
            steps,
            ratio,
            error,
            fmt='o-',
            markersize=4,
            color=colour,
            capsize=2,
            label=f'u = {at:g}',
        )
    right.set_xscale('log')
    right.set_xlabel('size of a step, lr c / |gamma|')
    right.set_ylabel('simulated / predicted change')
    right.set_title('It holds while a step is small against gamma', fontsize=11)
    right.legend(frameon=False, fontsize=9, loc='lower left')
    _save(figure, out_path)


def plot_walks(out_path: str | Path, *, num_walks: int) -> None:
    """Survival of the absorbing walk, and the rate of the geometric one."""
    generator = seeded_generator()
    figure, (left, right) = _two_panels()
    diffusion, num_steps = WALK['diffusion'], WALK['num_steps']
    time = range(1, num_steps + 1)
    seen = slice(num_steps // 20 - 1, None, num_steps // 20)
    for start, colour in ((0.2, _RED), (0.5, _ORANGE), (1.0, _BLUE)):
        left.plot(time, predicted_survival(start), color=colour, label=f'w0 = {start:g}')
        mean = simulated_survival(
            start, seen_between_steps=False, num_walks=num_walks, generator=generator
        ).mean
        left.plot(time[seen], mean[seen], 'o', markersize=4, color=colour)
        shifted = predicted_survival(start + 0.5826 * diffusion**0.5)
        left.plot(time, shifted, color=colour, linewidth=1, linestyle=':')
    left.plot([], [], 'o', markersize=4, color=_GREY, label='simulated, Gaussian steps')
    left.plot([], [], color=_GREY, label='erf(w0 / sqrt(2 eta t))')
    left.plot([], [], color=_GREY, linewidth=1, linestyle=':', label='w0 + 0.58 sqrt(eta)')
    left.set_ylim(0, 1.3)  # room for the legend
    left.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    left.set_xlabel(f'steps t of variance eta = {diffusion:g}')
    left.set_ylabel('share of walks still alive')
    left.set_title('Absorbing walk: 0 is a trap', fontsize=11)
    left.legend(frameon=False, fontsize=8, ncols=2, loc='upper right')

    lrs = torch.linspace(0.01, 0.85, 85, **FLOAT).tolist()
    rates = [geometric_rate(CURVATURE, NOISE, lr=lr) for lr in lrs]
    right.axhline(0, color=_GREY, linewidth=0.8)
    right.plot(lrs, rates, color=_BLUE, linewidth=2, label='mu = E log(1 - lr (h + zeta))')
    bound = [geometric_rate_bound(CURVATURE, 1.0, lr=lr) for lr in lrs]
    right.plot(lrs, bound, color=_GREEN, linestyle='--', label='its bound, DemP equation 15')
    right.plot(lrs, [-lr * CURVATURE for lr in lrs], color=_GREY, linestyle=':', label='no noise')
    points = torch.linspace(0.05, 0.85, 17).tolist()
    result = [simulated_rate(lr, num_walks=num_walks, generator=generator) for lr in points]
    right.errorbar(
        points,
        [r.mean.item() for r in result],
        [3 * r.standard_error.item() for r in result],
        fmt='o',
        markersize=4,
        color=_ORANGE,
        capsize=2,
        label='simulated, 3 standard errors',
    )
    right.fill_between(
        lrs, min(rates), 0, where=[r < 0 for r in rates], color=_BLUE, alpha=0.08, linewidth=0
    )
    right.annotate(
        'dies, though h < 0', (0.7, -0.03), color=_BLUE, fontsize=9, ha='center', va='top'
    )
    right.set_ylim(min(rates), 0.12)
    right.set_xlabel('learning rate')
    right.set_ylabel('growth of log |w| per step')
    right.set_title('Geometric walk: h = -0.1, zeta = -1 or 1', fontsize=11)
    right.legend(frameon=False, fontsize=8, loc='lower left')
    _save(figure, out_path)


def plot_scalar_decay(out_path: str | Path, *, num_steps: int, weight_decay: float) -> None:
    """The weight under each optimizer with L2 and with decoupled decay, of a dead channel
    and with Mehta's small gradients."""
    figure, panels = _two_panels()
    titles = 'No gradient: a dead channel', 'Gradients of 1e-3 for 100 steps, then 1e-5'
    every = max(1, num_steps // 1000)
    steps = range(0, num_steps + 1, every)
    for axes, title, gradients in zip(panels, titles, (None, small_gradients(num_steps))):
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
        axes.axhline(1e-3, color=_GREY, linewidth=1, linestyle='--')
        axes.set_yscale('log')
        axes.set_ylim(1e-5, 1.5)
        axes.set_xlabel('step')
        axes.set_title(title, fontsize=11)
    panels[0].annotate('collapsed below', (num_steps, 1e-3), (-2, -3), **_NOTE)
    panels[0].set_ylabel(f'|w|, weight decay {weight_decay:g}')
    panels[0].plot([], [], color=_GREY, label='L2, in the gradient')
    panels[0].plot([], [], ':', color=_GREY, label='WD, decoupled')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    _save(figure, out_path)


_NOTE = dict(textcoords='offset points', fontsize=8, color='#555555', ha='right', va='top')


def _two_panels():
    figure = Figure(figsize=(1200 / _DPI, 4.4), dpi=_DPI, facecolor='white', layout='constrained')
    panels = figure.subplots(1, 2)
    for axes in panels:
        _style(axes)
    return figure, panels
