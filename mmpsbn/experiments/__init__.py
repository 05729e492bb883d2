"""Floor 4: the papers' experiments, from configs to tables."""

from .psbn import PSBN_ROUNDS

EXPERIMENTS = {experiment.name: experiment for experiment in (PSBN_ROUNDS,)}

__all__ = ['EXPERIMENTS']
