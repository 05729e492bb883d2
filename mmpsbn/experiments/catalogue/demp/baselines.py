"""figures 3 and 16 of the DemP paper and the columns of its tables 1 and 2, on ResNet-18: DemP
beside structured and, but for small, unstructured baselines"""

from ...experiment import Arm, Experiment
from ._baselines import BASELINES, GAMMAS_AT_ONE, LEFT, structured
from ._resnet18 import with_each_optimizer

_UNSTRUCTURED = {
    'magnitude': {},
    'saliency': {},
    'set': {},
    'rigl': dict(distribution='erk'),  # as table 2 says, and of no other
}
# Of the masks, small has none: a masked net trains as long as the dense one.
_LEFT_OF_MASKS = LEFT | dict(small=())


def _arms(scale: str) -> list[Arm]:
    # at smoke there are five iterations
    often = dict(updates=dict(interval=1)) if scale == 'smoke' else {}
    masked = {
        f'{method}, {left}': [
            dict(type='SparseWeightsHook', method=method, sparsity=1 - left, **settings, **often)
        ]
        for left in _LEFT_OF_MASKS[scale]
        for method, settings in _UNSTRUCTURED.items()
    }
    return with_each_optimizer(scale, structured(scale) | masked, **GAMMAS_AT_ONE)


EXPERIMENT = Experiment(
    claim='With Adam DemP finds sparser nets of better accuracy than the structured baselines, and '
    'is more effective than the unstructured ones; with SGDM all are alike.',
    arms=_arms,
    **BASELINES,
)
