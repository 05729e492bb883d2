"""Theory against simulation in numbers: what :mod:`.theory_plots` draws and what it is
compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..datasets.digits import load_split_digits
from ..functional.dying_mlp import dead_neurons_by_step
from ..functional.scalar_decay import decay_curve
from ..functional.simulation import (
    Estimate,
    estimate,
    simulate_absorbing_walk,
    simulate_activation_change,
    simulate_geometric_walk,
)
from ..functional.theory import absorbing_survival, geometric_rate, theorem_one_k

FLOAT = dict(dtype=torch.float64)
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
WALK = dict(diffusion=1e-3, num_steps=1000)
# DemP's figure 9. Which noise its middle has is not said: as that of a gradient at the start.
MLP = dict(lrs=[0.01, 0.025, 0.05, 0.075, 0.1], noise_std=0.01)
CURVATURE, NOISE = -0.1, torch.tensor([-1.0, 1.0], **FLOAT)


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


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def simulated_k(
    u: Tensor, *, step: float, num_samples: int, generator: torch.Generator
) -> Estimate:
    """K, as the change of the activation probability at gamma = 1 over step^2 / 2."""
    result = simulate_activation_change(
        torch.ones_like(u),
        u,
        lr=1.0,
        grad_std=step,
        num_samples=num_samples,
        generator=generator,
    )
    return Estimate(*(part * 2 / step**2 for part in result))


def simulated_survival(
    start: float, *, seen_between_steps: bool, num_walks: int, generator: torch.Generator
) -> Estimate:
    return simulate_absorbing_walk(
        start,
        diffusion=WALK['diffusion'],
        times=[float(step) for step in range(1, WALK['num_steps'] + 1)],
        num_walks=num_walks,
        generator=generator,
        seen_between_steps=seen_between_steps,
    )


def predicted_survival(start: float) -> Tensor:
    time = torch.arange(1, WALK['num_steps'] + 1, **FLOAT)
    return absorbing_survival(torch.tensor(start, **FLOAT), diffusion=WALK['diffusion'], time=time)


def simulated_rate(lr: float, *, num_walks: int, generator: torch.Generator) -> Estimate:
    steps = 100
    walks = simulate_geometric_walk(
        CURVATURE, NOISE, lr=lr, num_steps=steps, num_walks=num_walks, generator=generator
    )
    return estimate(walks[-1] / steps)


def dead_neurons(regime: str, *, num_steps: int, every: int) -> Tensor:
    """Of an MLP on 448 scanned digits of 8x8 pixels, for want of MNIST."""
    digits, labels = load_split_digits('train')
    rows = list(digits)[::3]
    return dead_neurons_by_step(
        torch.from_numpy(np.stack([digits[row].ravel() for row in rows])),
        torch.tensor([labels[row] for row in rows]),
        regime=regime,
        num_steps=num_steps,
        every=every,
        generator=seeded_generator(),
        **MLP,
    )


def small_gradients(num_steps: int) -> list[float]:
    noise = torch.randn(num_steps, generator=seeded_generator(), **FLOAT)
    noise[:100] *= 1e-3
    noise[100:] *= 1e-5
    return noise.tolist()


def predicted_decay(
    name: str, *, weight_decay: float, decoupled: bool, num_steps: int, gradients
) -> list[float]:
    build, settings = OPTIMIZERS[name]
    optimizer = build([torch.nn.Parameter(torch.ones(1))], **settings)
    return decay_curve(
        build.__name__,
        start=1.0,
        lrs=[settings['lr']] * num_steps,
        initial_lr=settings['lr'],
        weight_decay=weight_decay,
        decoupled=decoupled,
        settings=optimizer.param_groups[0],
        gradients=gradients,
    )


def torch_decay(name: str, *, weight_decay: float, num_steps: int) -> float:
    build, settings = OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.ones((), **FLOAT))
    optimizer = build([weight], weight_decay=weight_decay, **settings)
    weight.grad = torch.zeros_like(weight)
    for _ in range(num_steps):
        optimizer.step()
    return weight.item()


def compare_theory(
    *, num_samples: int, num_walks: int, num_steps: int, weight_decay: float
) -> list[Comparison]:
    """Predicted and simulated numbers of all three.

    Args:
        num_samples, num_walks: draws of each Monte-Carlo estimate, > 1.
        num_steps: steps of the scalar decay, run by torch.optim itself.
        weight_decay: lambda of the scalar decay, with L2.
    """
    generator, rows = seeded_generator(), []
    u = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], **FLOAT)
    mean, error = simulated_k(u, step=0.02, num_samples=num_samples, generator=generator)
    predicted = theorem_one_k(u)
    for i, at in enumerate(u.tolist()):
        name = f'Theorem 1: K at beta/|gamma| = {at:g}'
        rows.append(Comparison(name, *(float(x[i]) for x in (predicted, mean, error))))
    for start in (0.2, 0.5, 1.0):
        mean, error = simulated_survival(
            start, seen_between_steps=True, num_walks=num_walks, generator=generator
        )
        name = f'absorbing walk from {start:g}: alive at t = {WALK["num_steps"]}'
        predicted = float(predicted_survival(start)[-1])
        rows.append(Comparison(name, predicted, float(mean[-1]), float(error[-1])))
    for lr in (0.1, 0.4, 0.8):
        mean, error = simulated_rate(lr, num_walks=num_walks, generator=generator)
        predicted = geometric_rate(CURVATURE, NOISE, lr=lr)
        name = f'geometric walk: growth per step at lr = {lr:g}'
        rows.append(Comparison(name, predicted, float(mean), float(error)))
    for name in OPTIMIZERS:
        curve = predicted_decay(
            name,
            weight_decay=weight_decay,
            decoupled=False,
            num_steps=num_steps,
            gradients=None,
        )
        simulated = torch_decay(name, weight_decay=weight_decay, num_steps=num_steps)
        label = f'{name}, L2: weight after {num_steps} steps'
        rows.append(Comparison(label, curve[-1], simulated, None))
    return rows


def comparison_table(rows: list[Comparison]) -> str:
    """One line a row; the last column is the distance in standard errors."""
    head = f'{"":<46}{"predicted":>12}{"simulated":>12}{"std error":>11}{"away":>7}'
    return '\n'.join([head, *map(str, rows)])
