"""appendix C of the BN-only paper, figures 8 and 9: VGG nets, and shares of small gammas"""

from ...experiment import Experiment
from ...pictures import over_columns
from ...tables import GridTable
from ._nets import VGG
from ._rows import DISABLED, TRAINED

EXPERIMENT = Experiment(
    __doc__,
    claim='With all parameters trained accuracy does not differ with gamma and beta disabled; BN '
    'alone is well above chance, and above two random weights a channel.',
    arms=VGG.arms(TRAINED | DISABLED, smoke=('BN',), small=('all', 'BN', 'output')),
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % at depth', '{top1:.1f} / {small_gammas:.0p}'
    ),
    panels=over_columns('depth', 'top1'),
)
