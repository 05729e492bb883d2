"""figures 17, 18 and 24 of the BN-only paper, WRN-14-k: gamma, beta and Pr[a = 0]"""

from ...experiment import Experiment
from ._nets import DISTRIBUTIONS, WIDE
from ._rows import BOTH

EXPERIMENT = Experiment(
    __doc__,
    claim='As in deep nets: trained alone gamma has a peak at 0, and many activations are always '
    'off or always on.',
    arms=WIDE.arms(BOTH),
    **DISTRIBUTIONS,
)
