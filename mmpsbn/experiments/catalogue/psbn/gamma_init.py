"""figure 5b of the psBN paper: sparsity of ResNet-20 against the initial gamma"""

from ...experiment import Experiment, Options
from ._rounds import one_round

_CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu')


def _initial(gamma: float) -> Options:
    return {'model.backbone.init_cfg': [_CONVOLUTIONS, dict(type='NormAffine', gamma=gamma)]}


EXPERIMENT = Experiment(
    claim='The smaller gamma begins, the more filters die and collapse under BN in one round.',
    # Which values the figure has cannot be read from the text. small: S = 3.9 takes a gamma of 1,
    # 0.2 and 0.04 to 0.02, 4e-3 and 8e-4: only from the last a filter that dies early can be
    # counted as collapsed.
    **one_round(
        'initial gamma',
        _initial,
        smoke=(1.0, 0.1),
        small=(1.0, 0.2, 0.04),
        paper=(1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    ),
)
