"""the WRN half of figures 11 to 14 of the BN-only paper: WRN-14-k, other initialisations and other
sets of parameters trained"""

from ...experiment import Experiment
from ._nets import CONTROLS, INITIALISED, SHORTCUTS, WIDE

_SHOWN = ('BN', 'BN + output', '2 random a channel', 'BN, gamma 1, beta 1', 'shortcuts + output')

EXPERIMENT = Experiment(
    claim='Beta 1 adds up to 3 points where BN alone is trained (75 % for WRN-14-32) and takes 3.5 '
    'there where all are; BN + shortcuts + output has 87 % there, BN 73 %.',
    arms=WIDE.arms(
        CONTROLS | INITIALISED | SHORTCUTS,
        smoke=('BN, gamma 1, beta 1', '4 random a channel', 'shortcuts + output'),
        small=_SHOWN,
    ),
    **WIDE.top1,
)
