"""the WRN half of figures 1, 2, 5, 6 and 7 of the BN-only paper: WRN-14-k against width"""

from ...experiment import Experiment
from ._nets import WIDE
from ._rows import BOTH, DISABLED, TRAINED

EXPERIMENT = Experiment(
    __doc__,
    claim='BN alone trained, wider nets get better (73 % for WRN-14-32), less so than deeper ones '
    'with as many parameters.',
    arms=WIDE.arms(TRAINED | DISABLED, smoke=BOTH, small=BOTH),
    **WIDE.small_gammas,
)
