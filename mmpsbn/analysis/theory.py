"""Theory against simulation, in numbers and four pictures.

Theorem 1 of the psBN paper, the two random walks of DemP and its MLP (figure 9), and the decay of
a scalar under each optimizer (Mehta, figure 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..datasets.digits import load_split_digits
from ..functional.decoupled_decay import decoupled
from ..functional.dying_mlp import dead_neurons_by_step
from ..functional.simulation import (
    Estimate,
    simulate_absorbing_walk,
    simulate_activation_change,
    simulate_geometric_rate,
)
from ..functional.theory import (
    absorbing_survival,
    geometric_rate,
    geometric_rate_bound,
    theorem_one_k,
)
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, new_figure, save_png

_FLOAT = dict(dtype=torch.float64)
# Mehta's figure 4 and its supplement: a weight that starts at 1, these learning rates, and
# gradients of standard deviation 1e-3 for 100 steps, then 1e-5.
OPTIMIZERS = {
    'SGD (momentum 0.9)': (torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    'Adam': (torch.optim.Adam, dict(lr=1e-3, betas=(0.9, 0.99))),
    'AMSGrad': (torch.optim.Adam, dict(lr=1e-3, betas=(0.9, 0.99), amsgrad=True)),
    'Adagrad': (torch.optim.Adagrad, dict(lr=1e-2)),
    'Adadelta': (torch.optim.Adadelta, dict(lr=1.0)),
    'RMSprop': (torch.optim.RMSprop, dict(lr=1e-3)),
    'Adamax': (torch.optim.Adamax, dict(lr=2e-3)),
}
_COLOURS = ('#bdbdbd', BLUE, '#6baed6', GREEN, ORANGE, RED, PURPLE)
_DIFFUSION, _WALK_STEPS = 1e-3, 1000  # of the absorbing walk
_CURVATURE, _NOISE = -0.1, torch.tensor([-1.0, 1.0], **_FLOAT)  # of the geometric one
_RATE_STEPS = 100
# DemP's figure 9. Which noise its middle has is not said: as that of a gradient at the start.
_MLP = dict(lrs=[0.01, 0.025, 0.05, 0.075, 0.1], noise_std=0.01)
_SIMULATED = dict(fmt='o', color=ORANGE, label='simulated, 3 standard errors')


@dataclass(frozen=True)
class Comparison:
    """A predicted number beside a simulated one; no standard error where no dice are cast."""

    quantity: str
    predicted: float
    simulated: float
    standard_error: float | None

    def __str__(self) -> str:
        error = ''
        if self.standard_error is not None:
            away = abs(self.simulated - self.predicted) / self.standard_error
            error = f'{self.standard_error:>11.2g}  {away:>5.1f} se'
        return f'{self.quantity:<46}{self.predicted:>12.5g}{self.simulated:>12.5g}{error}'


def compare_theory(
    *, num_samples: int, num_walks: int, num_steps: int, weight_decay: float
) -> list[Comparison]:
    """Predicted and simulated numbers of all three.

    Args:
        num_samples, num_walks: draws of each Monte-Carlo estimate, > 1.
        num_steps: steps of the scalar decay, run by torch.optim itself.
        weight_decay: lambda of the scalar decay, decoupled.
    """
    generator, rows = _seeded(), []
    u = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], **_FLOAT)
    mean, error = _simulated_k(u, step=0.02, num_samples=num_samples, generator=generator)
    for at, *numbers in zip(u.tolist(), theorem_one_k(u).tolist(), mean.tolist(), error.tolist()):
        rows.append(Comparison(f'Theorem 1: K at beta/|gamma| = {at:g}', *numbers))
    for start in (0.2, 0.5, 1.0):
        walk = dict(num_walks=num_walks, generator=generator, seen_between_steps=True)
        last = (float(x[-1]) for x in (_predicted_survival(start), *_survival(start, **walk)))
        rows.append(Comparison(f'absorbing walk from {start:g}: alive at t = {_WALK_STEPS}', *last))
    for lr in (0.1, 0.4, 0.8):
        found = map(float, _simulated_rate(lr, num_walks=num_walks, generator=generator))
        predicted = geometric_rate(_CURVATURE, _NOISE, lr=lr)
        name = f'geometric walk: growth per step at lr = {lr:g}'
        rows.append(Comparison(name, predicted, *found))
    for name in OPTIMIZERS:
        curve = decay_curves(
            name,
            weight_decay=weight_decay,
            in_gradient=False,
            gradients=torch.zeros(num_steps, 1, **_FLOAT),
        )
        label = f'{name}, WD: weight after {num_steps} steps'
        rows.append(Comparison(label, (1 - weight_decay) ** num_steps, curve[-1].item(), None))
    return rows


def comparison_table(rows: list[Comparison]) -> str:
    """One line a row; the last column is the distance in standard errors."""
    head = f'{"":<46}{"predicted":>12}{"simulated":>12}{"std error":>11}{"away":>7}'
    return '\n'.join([head, *map(str, rows)])


def decay_curves(name: str, *, weight_decay: float, in_gradient: bool, gradients: Tensor) -> Tensor:
    """Weights that start at 1, before the first and after each step of an optimizer.

    The gamma of a dead channel has no gradient and follows the decay alone. L2 puts lambda * w into
    the gradient, where an adaptive optimizer divides it by its own size; decoupled decay (WD,
    section 2.1) multiplies w by 1 - lambda whatever the optimizer and its rate.

    Args:
        name: of one of :data:`OPTIMIZERS`.
        weight_decay: lambda, in [0, 1).
        in_gradient: L2, and not decoupled.
        gradients: of the loss, shape (steps, N).

    Returns:
        Shape (steps + 1, N).
    """
    build, settings = OPTIMIZERS[name]
    build = build if in_gradient else decoupled(build)
    weight = torch.nn.Parameter(torch.ones_like(gradients[0]))
    optimizer = build([weight], weight_decay=weight_decay, **settings)
    curve = [weight.detach().clone()]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        curve.append(weight.detach().clone())
    return torch.stack(curve)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _simulated_k(u: Tensor, *, step: float, **draws) -> Estimate:
    """K, as the change of the activation probability at gamma = 1 over step^2 / 2."""
    result = simulate_activation_change(torch.ones_like(u), u, lr=1.0, grad_std=step, **draws)
    return Estimate(*(part * 2 / step**2 for part in result))


def _survival(start: float, **draws) -> Estimate:
    times = [float(step) for step in range(1, _WALK_STEPS + 1)]
    return simulate_absorbing_walk(start, diffusion=_DIFFUSION, times=times, **draws)


def _predicted_survival(start: float) -> Tensor:
    time = torch.arange(1, _WALK_STEPS + 1, **_FLOAT)
    return absorbing_survival(torch.tensor(start, **_FLOAT), diffusion=_DIFFUSION, time=time)


def _simulated_rate(lr: float, **draws) -> Estimate:
    return simulate_geometric_rate(_CURVATURE, _NOISE, lr=lr, num_steps=_RATE_STEPS, **draws)


def plot_theorem_one(out_path: str | Path, *, num_samples: int) -> None:
    """K(u) with the simulation on it, and how it fails for steps as large as gamma."""
    draws = dict(num_samples=num_samples, generator=_seeded())
    figure, left, right = _two_panels()
    u = torch.linspace(-4, 4, 401, **_FLOAT)
    left.axhline(0, color=GREY, linewidth=0.8)
    left.fill_between(u, theorem_one_k(u), 0, color=BLUE, alpha=0.1, linewidth=0)
    left.plot(u, theorem_one_k(u), color=BLUE, linewidth=2, label='K(u), as printed')
    points = torch.linspace(-3.5, 3.5, 29, **_FLOAT)
    _with_errors(left, points, [_simulated_k(points, step=0.02, **draws)], **_SIMULATED)
    _label(
        left,
        'Theorem 1: gradient noise makes a channel less active',
        'u = (beta + alpha) / |gamma|',
        'change of Phi(u) in units of (lr c / gamma)² / 2',
    )
    left.set_ylim(-0.36, 0.16)
    left.legend(frameon=False, fontsize=9, loc='upper right')

    steps = torch.logspace(-2, 0.5, 11, **_FLOAT).tolist()
    right.axhline(1, color=GREY, linewidth=1.2, linestyle='--', label='Theorem 1')
    for at, colour in ((-0.5, RED), (0.0, BLUE), (0.5, GREEN)):
        u = torch.tensor([at], **_FLOAT)
        found = [_simulated_k(u, step=step, **draws) for step in steps]
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
    draws = dict(num_walks=num_walks, generator=_seeded())
    figure, left, right = _two_panels()
    time = range(1, _WALK_STEPS + 1)
    seen = slice(_WALK_STEPS // 20 - 1, None, _WALK_STEPS // 20)
    for start, colour in ((0.2, RED), (0.5, ORANGE), (1.0, BLUE)):
        left.plot(time, _predicted_survival(start), color=colour, label=f'w0 = {start:g}')
        mean = _survival(start, seen_between_steps=False, **draws).mean
        left.plot(time[seen], mean[seen], 'o', markersize=4, color=colour)
        shifted = _predicted_survival(start + 0.5826 * _DIFFUSION**0.5)
        left.plot(time, shifted, color=colour, linewidth=1, linestyle=':')
    left.plot([], [], 'o', markersize=4, color=GREY, label='simulated, Gaussian steps')
    left.plot([], [], color=GREY, label='erf(w0 / sqrt(2 eta t))')
    left.plot([], [], color=GREY, linewidth=1, linestyle=':', label='w0 + 0.58 sqrt(eta)')
    left.set(ylim=(0, 1.3), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0])  # room for the legend
    _label(
        left,
        'Absorbing walk: 0 is a trap',
        f'steps t of variance eta = {_DIFFUSION:g}',
        'share of walks still alive',
    )
    left.legend(frameon=False, fontsize=8, ncols=2, loc='upper right')

    lrs = torch.linspace(0.01, 0.85, 85, **_FLOAT).tolist()
    rates = [geometric_rate(_CURVATURE, _NOISE, lr=lr) for lr in lrs]
    right.axhline(0, color=GREY, linewidth=0.8)
    right.plot(lrs, rates, color=BLUE, linewidth=2, label='mu = E log(1 - lr (h + zeta))')
    bound = [geometric_rate_bound(_CURVATURE, 1.0, lr=lr) for lr in lrs]
    right.plot(lrs, bound, color=GREEN, linestyle='--', label='its bound, DemP equation 15')
    right.plot(lrs, [-lr * _CURVATURE for lr in lrs], color=GREY, linestyle=':', label='no noise')
    points = torch.linspace(0.05, 0.85, 17).tolist()
    _with_errors(right, points, [_simulated_rate(lr, **draws) for lr in points], **_SIMULATED)
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
    noise = torch.randn(num_steps, generator=_seeded(), **_FLOAT)
    noise[:100] *= 1e-3
    noise[100:] *= 1e-5
    gradients = torch.stack([torch.zeros_like(noise), noise], 1)
    every = max(1, num_steps // 1000)
    steps = range(0, num_steps + 1, every)
    for name, colour in zip(OPTIMIZERS, _COLOURS):
        for in_gradient, style in ((True, '-'), (False, ':')):
            settings = dict(weight_decay=weight_decay, in_gradient=in_gradient)
            sizes = decay_curves(name, gradients=gradients, **settings)[::every].abs()
            label = name if in_gradient else None
            width = 4 if name.startswith('SGD') else 1.6  # Adadelta runs on top of it
            for axes, size in zip((left, right), sizes.T):
                axes.plot(steps, size, style, color=colour, linewidth=width, label=label)
    titles = 'No gradient: a dead channel', 'Gradients of 1e-3 for 100 steps, then 1e-5'
    for axes, title in zip((left, right), titles):
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


def plot_dying_mlp(out_path: str | Path, *, num_steps: int, seed: int) -> str:
    """Dead neurons where only the noise of gradients moves the weights, where Gaussian noise
    does, and under SGD; a colour for each learning rate.

    Returns:
        How many there are after the last step, as a table.
    """
    figure, grid = new_figure(1, 3, width=10, height=4.4)
    every = max(1, num_steps // 50)
    steps = range(every, num_steps + 1, every)
    panels = {
        'Noise of gradients': {'gradient noise': '-'},
        'Gaussian noise': {'asymmetric noise': '-', 'symmetric noise': '--'},
        'SGD': {'SGD': '-'},
    }
    rates = ''.join(f'{lr:>8g}' for lr in _MLP['lrs'])
    lines = [f'{f"dead of 400 neurons, {num_steps} steps, seed {seed}, at":<48}{rates}']
    for axes, (title, regimes) in zip(grid[0], panels.items()):
        for regime, style in regimes.items():
            dead = _dead_neurons(regime, num_steps=num_steps, every=every, seed=seed)
            lines.append(f'{regime:<48}' + ''.join(f'{count:>8}' for count in dead[-1]))
            for lr, colour, counts in zip(_MLP['lrs'], _COLOURS, dead.T):
                label = f'learning rate {lr:g}' if style == '-' else None
                axes.plot(steps, counts, style, color=colour, label=label)
        _label(axes, title, 'step', 'dead of 400 neurons')
    grid[0][1].plot([], [], '--', color=GREY, label='also of dead neurons')
    grid[0][1].legend(frameon=False, fontsize=8)
    save_png(figure, out_path)
    return '\n'.join(lines)


def _dead_neurons(regime: str, *, num_steps: int, every: int, seed: int) -> Tensor:
    """Of an MLP on 448 scanned digits of 8x8 pixels, for want of MNIST."""
    digits, labels = load_split_digits('train')
    rows = list(digits)[::3]
    return dead_neurons_by_step(
        torch.from_numpy(np.stack([digits[row].ravel() for row in rows])),
        torch.tensor([labels[row] for row in rows]),
        regime=regime,
        num_steps=num_steps,
        every=every,
        generator=_seeded(seed),
        **_MLP,
    )


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
