"""Floor 6: experiments, the papers' and one of our own, from configs to tables."""

from .finetune import FINETUNE_TRADEOFF
from .papers.bn_only import BN_ONLY
from .papers.demp import DEMP_TRADEOFF
from .papers.implicit import IMPLICIT_BATCH_SIZE, IMPLICIT_OPTIMIZERS, IMPLICIT_PRUNE
from .papers.psbn import PSBN_RANDOM_LABELS, PSBN_ROUNDS, PSBN_SNAPSHOT
from .papers.psbn_single import PSBN_FINETUNE, PSBN_GAMMA_INIT, PSBN_LR

_PSBN = (PSBN_ROUNDS, PSBN_RANDOM_LABELS, PSBN_LR, PSBN_GAMMA_INIT, PSBN_SNAPSHOT, PSBN_FINETUNE)
_IMPLICIT = (IMPLICIT_OPTIMIZERS, IMPLICIT_BATCH_SIZE, IMPLICIT_PRUNE)
EXPERIMENTS = {e.name: e for e in (*_PSBN, *_IMPLICIT, BN_ONLY, DEMP_TRADEOFF, FINETUNE_TRADEOFF)}

__all__ = ['EXPERIMENTS']
