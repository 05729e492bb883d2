"""appendix E of the BN-only paper, figure 11, deep nets: other initialisations of features, gamma
and beta"""

from ...experiment import Experiment
from ._nets import DEEP, INITIALISED

EXPERIMENT = Experiment(
    claim='Features from other distributions change nothing, nor do gamma 1 and gamma in [-1, 1]; '
    'beta 1 adds 1 to 3 points where BN alone is trained, and none or less where all are.',
    arms=DEEP.arms(
        INITIALISED,
        smoke=('BN, binarized features', 'all, orthogonal features', 'BN, gamma in [-1, 1]'),
    ),
    **DEEP.top1,
)
