"""Floor 4: the papers' experiments, from configs to tables."""

from .psbn import PSBN_RANDOM_LABELS, PSBN_ROUNDS, PSBN_SNAPSHOT
from .psbn_single import PSBN_FINETUNE, PSBN_GAMMA_INIT, PSBN_LR

_ALL = (
    PSBN_ROUNDS,
    PSBN_RANDOM_LABELS,
    PSBN_LR,
    PSBN_GAMMA_INIT,
    PSBN_SNAPSHOT,
    PSBN_FINETUNE,
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}

__all__ = ['EXPERIMENTS']
