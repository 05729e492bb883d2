"""figure 1b of the psBN paper: gamma and beta of a layer of ResNet-20 over two rounds, as
percentiles over its channels; and section 4.3: beta / gamma of those that have collapsed"""

from ...experiment import Experiment, sweep
from ...scales import KEEP_ALL
from .._shared import by_epoch
from ._rounds import CONFIG, NORMS, rounds

EXPERIMENT = Experiment(
    claim='Collapsed filters run from the outside to the origin; the ratio of beta and gamma keeps '
    'its value while both decay.',
    arms=lambda scale: sweep(CONFIG, rounds(scale, 2) | KEEP_ALL, NORMS),
    **by_epoch('norm', 'gamma_path', 'beta_path', 'ratio_path'),
)
