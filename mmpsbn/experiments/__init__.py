"""Floor 4: the papers' experiments, from configs to tables."""

from .bn_only import BN_ONLY
from .demp import DEMP_TRADEOFF
from .implicit import IMPLICIT_BATCH_SIZE, IMPLICIT_OPTIMIZERS
from .implicit_prune import IMPLICIT_PRUNE
from .psbn import PSBN_RANDOM_LABELS, PSBN_ROUNDS, PSBN_SNAPSHOT
from .psbn_single import PSBN_FINETUNE, PSBN_GAMMA_INIT, PSBN_LR

_ALL = (
    PSBN_ROUNDS,
    PSBN_RANDOM_LABELS,
    PSBN_LR,
    PSBN_GAMMA_INIT,
    PSBN_SNAPSHOT,
    PSBN_FINETUNE,
    IMPLICIT_OPTIMIZERS,
    IMPLICIT_BATCH_SIZE,
    IMPLICIT_PRUNE,
    BN_ONLY,
    DEMP_TRADEOFF,
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}

__all__ = ['EXPERIMENTS']
