"""figures 4, 15, 16 and 23 of the BN-only paper, deep nets: gamma, beta and Pr[a = 0]"""

from ...experiment import Experiment
from ._nets import DEEP, DISTRIBUTIONS
from ._rows import BOTH

EXPERIMENT = Experiment(
    __doc__,
    claim='Trained alone gamma has a peak at 0; many activations are always off or always on, '
    'where with all trained many are on some of the time (10 % to 70 %).',
    arms=DEEP.arms(BOTH),
    **DISTRIBUTIONS,
)
