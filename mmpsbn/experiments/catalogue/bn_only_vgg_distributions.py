from ..experiment import Experiment
from ._bn_only import BOTH, DISTRIBUTIONS, VGG

EXPERIMENT = Experiment(
    shows='figures 21 and 22 of the BN-only paper, VGG nets: gamma and beta',
    claim='Trained alone nearly half of the gammas are below 0.01, of all trained 2 % to 3 %.',
    arms=VGG.arms(BOTH),
    **DISTRIBUTIONS,
)
