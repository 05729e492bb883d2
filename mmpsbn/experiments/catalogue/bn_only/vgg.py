"""appendix C of the BN-only paper, figures 8, 9, 21 and 22: VGG nets, their accuracy, gamma and
beta"""

from ...experiment import Experiment
from ._nets import DISABLED, TRAINED, VGG

EXPERIMENT = Experiment(
    claim='With all parameters trained accuracy does not differ with gamma and beta disabled; BN '
    'alone is well above chance, and above two random weights a channel, with nearly half of the '
    'gammas below 0.01, where of all trained 2 % to 3 % are.',
    arms=VGG.arms(TRAINED | DISABLED, smoke=('BN',), small=('all', 'BN', 'output')),
    **VGG.figures,
)
