"""figures 21 and 22 of the BN-only paper, VGG nets: gamma and beta"""

from ...experiment import Experiment
from ._nets import DISTRIBUTIONS, VGG
from ._rows import BOTH

EXPERIMENT = Experiment(
    __doc__,
    claim='Trained alone nearly half of the gammas are below 0.01, of all trained 2 % to 3 %.',
    arms=VGG.arms(BOTH),
    **DISTRIBUTIONS,
)
