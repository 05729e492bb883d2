"""the WRN half of figures 1, 2, 5, 6 and 7 of the BN-only paper, and 17, 18 and 24: WRN-14-k, its
accuracy, gamma, beta and Pr[a = 0]"""

from ...experiment import Experiment
from ._nets import BOTH, DISABLED, TRAINED, WIDE

EXPERIMENT = Experiment(
    claim='BN alone trained, wider nets get better (73 % for WRN-14-32), less so than deeper ones '
    'with as many parameters; gamma has a peak at 0, and many activations are always off or '
    'always on, as in deep nets.',
    arms=WIDE.arms(TRAINED | DISABLED, smoke=BOTH, small=BOTH),
    **WIDE.figures,
)
