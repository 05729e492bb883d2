from ..experiment import Experiment
from ._bn_only import BOTH, DISTRIBUTIONS, WIDE

EXPERIMENT = Experiment(
    shows='figures 17, 18 and 24 of the BN-only paper, WRN-14-k: gamma, beta and Pr[a = 0]',
    claim='As in deep nets: trained alone gamma has a peak at 0, and many activations are always '
    'off or always on.',
    arms=WIDE.arms(BOTH),
    **DISTRIBUTIONS,
)
