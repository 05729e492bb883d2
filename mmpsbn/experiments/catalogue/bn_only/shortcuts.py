"""figure 12 of the BN-only paper, deep nets: shortcuts and output layer trained too"""

from ...experiment import Experiment
from ._nets import DEEP, SHORTCUTS

EXPERIMENT = Experiment(
    claim='BN + shortcuts + output improves ResNet-14 from 48 % to 63 % and ResNet-110 by five '
    'points, ResNet-866 not at all; shortcuts + output alone have 49 % at depth 14.',
    arms=DEEP.arms(SHORTCUTS, smoke=('BN + shortcuts + output', 'shortcuts + output')),
    **DEEP.top1,
)
