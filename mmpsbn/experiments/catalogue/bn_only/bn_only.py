"""figures 2, 4 to 7, 15, 16 and 23 of the BN-only paper: deep nets, their accuracy, gamma, beta and
Pr[a = 0]"""

from dataclasses import replace

from ...experiment import Experiment
from ._nets import BOTH, DEEP, TRAINED

_NETS = replace(DEEP, sizes=DEEP.sizes | dict(smoke=(14, 8), small=(56, 32, 14)))

EXPERIMENT = Experiment(
    claim='BN alone trained, deeper nets get better (48 % at depth 14, 70 % at 110, 82 % at 866) '
    'and a quarter to a third of the gammas end below 0.01, which can be set to 0 at no loss; 28 % '
    'to 39 % of the ReLUs are off. With all trained 5 % of gammas do, and many activations are on '
    'some of the time (10 % to 70 %), where with BN alone they are always off or always on.',
    arms=_NETS.arms(TRAINED, smoke=BOTH, small=BOTH),
    **_NETS.figures,
)
