from ..experiment import Experiment
from ._bn_only import FIXED, TRAINED, WIDE

EXPERIMENT = Experiment(
    shows='the WRN half of figures 1, 2, 5, 6 and 7 of the BN-only paper: WRN-14-k against width',
    claim='BN alone trained, wider nets get better (73 % for WRN-14-32), less so than deeper ones '
    'with as many parameters.',
    arms=WIDE.arms(
        TRAINED | {'all but gamma and beta': FIXED}, smoke=('all', 'BN'), small=('all', 'BN')
    ),
    **WIDE.small_gammas,
)
